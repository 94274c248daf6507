"""Frames as the release resizes and pads them, by hand."""

import numpy as np
import pytest

from snp_jax.data import release


def test_bilinear_resizing():
    ramp = np.arange(4, dtype=np.float32)[None, None, :, None]
    halved = np.asarray(release.resize(ramp, (1, 2)))[0, 0, :, 0]
    np.testing.assert_allclose(halved, [0.5, 2.5])  # pixel centres at 0.5 and 2.5: no antialiasing


@pytest.mark.parametrize("corner", [True, False])
def test_padding_mask(corner):
    small, large = np.ones((1, 2, 3), np.float32), np.ones((2, 3, 3), np.float32)
    batch, real = release.pad_images([small, large], corner=corner)
    assert batch.shape == (2, 2, 3, 3) and batch[0].sum() == small.sum()
    assert real[1].all()
    wanted = [[True, True, True], [True, True, False]] if corner else [[True, True, False], [False, False, False]]
    np.testing.assert_array_equal(real[0], wanted)
