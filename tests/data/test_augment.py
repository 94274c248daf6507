"""Augmentation against a slow version, and what it leaves alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from snp_jax.data.augment import AugmentOptions, augment

OFF = AugmentOptions(zoom=1.0, shift=0.0, light=0.0)


@pytest.fixture(scope="module")
def frames():
    """uint8 `[3, 2, 6, 9, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (3, 2, 6, 9, 3), dtype=np.uint8)


def changed(frames, **options):
    return np.asarray(
        augment(jax.random.key(3), frames, AugmentOptions(**{"zoom": 1.0, "shift": 0.0, "light": 0.0, **options}))
    )


def test_off_means_untouched(frames):
    assert augment(jax.random.key(0), frames, OFF) is frames


def sample(image, row, column):
    """Bilinear value of `image [H, W, 3]` at a position inside it."""
    top, left = int(np.floor(row)), int(np.floor(column))
    bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
    a, b = row - top, column - left
    upper = (1 - b) * image[top, left] + b * image[top, right]
    lower = (1 - b) * image[bottom, left] + b * image[bottom, right]
    return (1 - a) * upper + a * lower


def test_zoom_and_shift_against_a_slow_version(frames):
    options = {"zoom": 1.5, "shift": 0.3}
    zoom_key, shift_key, _ = jax.random.split(jax.random.key(3), 3)
    exponent = np.asarray(jax.random.uniform(zoom_key, (3, 1), minval=-1.0))
    shift = 0.3 * np.asarray(jax.random.uniform(shift_key, (3, 2), minval=-1.0))
    got = changed(frames, **options)
    height, width = frames.shape[2:4]
    for video in range(3):
        scale = 1.5 ** exponent[video, 0]
        for row in range(height):
            for column in range(width):
                y = np.clip((row - 2.5) * scale + 2.5 + shift[video, 0] * height, 0, height - 1)
                x = np.clip((column - 4.0) * scale + 4.0 + shift[video, 1] * width, 0, width - 1)
                for frame in range(2):
                    wanted = sample(frames[video, frame].astype(np.float64), y, x)
                    np.testing.assert_allclose(got[video, frame, row, column], wanted, atol=1e-2)


def test_light_is_one_draw_a_video_and_stays_in_range(frames):
    got = changed(frames, light=0.5)
    assert got.min() >= 0.0 and got.max() <= 255.0
    inside = (got > 0.0) & (got < 255.0)
    lines = []
    for video in range(3):
        x, y = frames[video][inside[video]].astype(np.float64), got[video][inside[video]]
        slope, offset = np.polyfit(x, y, 1)
        np.testing.assert_allclose(slope * x + offset, y, atol=1e-2)
        assert 0.5 <= slope <= 1.5 and abs(offset) <= 32.0
        lines.append((slope, offset))
    assert len(set(np.round(lines, 4)[:, 0])) == 3


def test_the_key_decides(frames):
    options = AugmentOptions(zoom=1.2, shift=0.1, light=0.1)
    one, same, other = (np.asarray(augment(jax.random.key(k), frames, options)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1.0
