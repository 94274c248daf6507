"""The arithmetic of windows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.models import backend
from snp_jax.models.windows import Cut, merge_windows, relative_index, split_windows


def test_windows_round_trip_and_hold_neighbours():
    x = jnp.arange(2 * 4 * 6 * 6).reshape(2, 4, 6, 6, 1)
    windows = split_windows(x, (2, 3, 3))
    assert windows.shape == (2, 8, 18, 1)
    np.testing.assert_array_equal(windows[0, 0, :, 0].reshape(2, 3, 3), x[0, :2, :3, :3, 0])
    np.testing.assert_array_equal(merge_windows(windows, (2, 3, 3), (4, 6, 6)), x)


def test_window_shrinks_and_does_not_shift_where_it_fits():
    assert Cut.of((8, 56, 7), (8, 7, 7)) == Cut((8, 56, 7), (8, 7, 7), (0, 3, 0))
    assert Cut.of((3, 4, 56), (8, 7, 7)) == Cut((3, 4, 56), (3, 4, 7), (0, 0, 3))


@pytest.mark.parametrize("sizes", [(3, 5, 4), (4, 6, 6), (2, 3, 7), (1, 2, 2)])
def test_cells_of_a_cut(sizes):
    """A grid comes back; in shifted order cell i of a window is the one `shift` later, around the end."""
    cut = Cut.of(sizes, (2, 3, 3))
    grid = jnp.asarray(np.random.default_rng(0).standard_normal((2, *sizes, 5)), jnp.float32)
    x = cut.split(grid)
    np.testing.assert_array_equal(cut.merge(x), grid)
    np.testing.assert_array_equal(cut.without_padding(x + 1)[x == 0], 0)
    np.testing.assert_array_equal(cut.merge(cut.without_padding(x + 1)), grid + 1)
    ends = [(0, padded - size) for padded, size in zip(cut.padded, sizes, strict=True)]
    rolled = np.roll(np.pad(grid, ((0, 0), *ends, (0, 0))), [-s for s in cut.shift], axis=(1, 2, 3))
    wanted = split_windows(rolled, cut.window)
    assert x.shape == (2 * cut.places, 5)
    np.testing.assert_array_equal(cut.windows_of(cut.shifted(x)), wanted)
    np.testing.assert_array_equal(cut.shifted(cut.shifted(x), back=True), x)
    with backend.lower_for("tpu"):
        np.testing.assert_array_equal(cut.windows_of(cut.shifted(x)), wanted)
        np.testing.assert_array_equal(cut.shifted(cut.shifted(x), back=True), x)


def test_shift_labels_by_brute_force():
    """Cells may attend to each other exactly if they were in one window of the UN-rolled, shifted
    partition."""
    sizes, window, shift = (1, 6, 9), (1, 3, 3), (0, 1, 1)
    labels = Cut(sizes, window, shift).labels()
    # after the roll, position p holds cell (p + shift) mod size; wrapped cells belong to the far end
    cells = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1)
    wrapped = (cells + shift) >= np.array(sizes)
    groups = split_windows(wrapped[None].astype(int), window)[0]  # [W, N, 3]
    same = (groups[:, :, None] == groups[:, None, :]).all(-1)
    np.testing.assert_array_equal(labels[:, :, None] == labels[:, None, :], same)


def test_relative_index_against_loops():
    window = (2, 3, 2)
    cells = [(t, h, w) for t in range(2) for h in range(3) for w in range(2)]
    wanted = [[((a[0] - b[0] + 1) * 5 + (a[1] - b[1] + 2)) * 3 + (a[2] - b[2] + 1) for b in cells] for a in cells]
    np.testing.assert_array_equal(relative_index(window, 12), wanted)
    np.testing.assert_array_equal(relative_index(window, 5), np.array(wanted)[:5, :5])
