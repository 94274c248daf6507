"""The shuffle of frame-order modelling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.objectives import order
from snp_jax.objectives.masking import IGNORE


@pytest.mark.parametrize("ratio", [0.15, 1.0])
def test_a_drawn_order(ratio):
    mask = jnp.asarray([[True] * 6, [True] * 3 + [False] * 3, [True] + [False] * 5])
    clips = jnp.arange(18, dtype=jnp.float32).reshape(3, 6, 1)
    chosen_counts, moved = [], False
    for seed in range(40):
        drawn = order.draw_order(jax.random.key(seed), mask, ratio=ratio)
        shuffled = np.asarray(order.reorder(clips, drawn.order))[..., 0]
        for b, real in enumerate((6, 3, 1)):
            assert sorted(np.asarray(drawn.order[b])) == list(range(6))
            np.testing.assert_array_equal(drawn.order[b, real:], np.arange(real, 6))  # padding stays
            told = np.asarray(drawn.target[b]) != IGNORE
            np.testing.assert_array_equal(shuffled[b, told], 6 * b + np.asarray(drawn.target[b])[told])  # the target is right
            np.testing.assert_array_equal(shuffled[b, ~told], 6 * b + np.arange(6)[~told])  # untold clips stay
            assert told.sum() >= (2 if real > 1 else 0) and not told[real:].any()
        chosen_counts.append(int((np.asarray(drawn.target[0]) != IGNORE).sum()))
        moved |= bool((np.asarray(drawn.order[0]) != np.arange(6)).any())
    assert moved and (set(chosen_counts) == {6} if ratio == 1.0 else np.mean(chosen_counts) < 3)


def test_reorder_scatters():
    np.testing.assert_array_equal(order.reorder(jnp.asarray([[10, 20, 30]]), jnp.asarray([[1, 2, 0]])), [[30, 10, 20]])
    target = order.targets_of(jnp.asarray([[1, 2, 0]]), jnp.asarray([[True, False, True]]))
    np.testing.assert_array_equal(target, [[2, 0, IGNORE]])
