"""Every operation of RandAugment against Pillow, frame by frame."""

from __future__ import annotations

import functools
import math

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from snp_jax.data import rand_augment
from snp_jax.data.rand_augment import OPERATIONS

HEIGHT, WIDTH, FRAMES = 20, 26, 2


@pytest.fixture(scope="module")
def clip():
    """uint8 `[T, H, W, 3]`: smooth and noisy parts, not all values in use."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 220, (FRAMES, 6, 7, 3), dtype=np.uint8)
    frames = [np.asarray(Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) for frame in coarse]
    frames = np.stack(frames)
    frames[:, :5] = rng.integers(30, 220, (FRAMES, 5, WIDTH, 3))
    return frames


@functools.cache
def compiled():
    return jax.jit(rand_augment.change)


def ours(clip, strength):
    """All operations at one strength, `[operations, T, H, W, 3]`."""
    count = len(OPERATIONS)
    repeated = np.repeat(clip[None].astype(np.float32), count, axis=0)
    return np.asarray(compiled()(repeated, np.arange(count), np.full(count, strength, np.float32)))


def affine(image, matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def rotate(image, degrees):
    """Counter-clockwise about the centre, as Pillow does it."""
    return image.rotate(degrees, Image.Resampling.BILINEAR)


def pillow(name, image, strength):
    size, factor = abs(strength), 1 + 0.9 * strength
    return {
        "identity": lambda: image,
        "shear_x": lambda: affine(image, (1, 0.3 * strength, 0, 0, 1, 0)),
        "shear_y": lambda: affine(image, (1, 0, 0, 0.3 * strength, 1, 0)),
        "translate_x": lambda: affine(image, (1, 0, 150 / 331 * WIDTH * strength, 0, 1, 0)),
        "translate_y": lambda: affine(image, (1, 0, 0, 0, 1, 150 / 331 * HEIGHT * strength)),
        "rotate": lambda: rotate(image, 30 * strength),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(4 * size)),
        "solarize": lambda: ImageOps.solarize(image, math.ceil(255 * (1 - size))),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[name]()


@pytest.mark.parametrize("strength", [0.3, -0.3, 0.9])
def test_operations_are_pillow_s(strength, clip):
    results = ours(clip, strength)
    for name, result in zip(OPERATIONS, results, strict=True):
        wanted = np.stack([np.asarray(pillow(name, Image.fromarray(frame), strength)) for frame in clip]).astype(np.float32)
        difference = np.abs(result - wanted)
        assert (difference <= 1.0).mean() > 0.995, (name, difference.max())  # rounding; a pixel on the edge may be in or out
        if name != "identity":
            assert np.abs(result - clip).mean() > 0.3, f"{name} does nothing"


def test_equalize_of_larger_frames():
    """More pixels than grey values: the table has steps larger than 0."""
    frames = np.random.default_rng(1).normal(120, 20, (1, 1, 64, 80, 3)).clip(0, 255).astype(np.uint8)
    frames[..., 2] = 7  # a colour without contrast stays
    result = np.asarray(rand_augment.equalize(frames.astype(np.float32)))
    np.testing.assert_array_equal(result[0, 0], np.asarray(ImageOps.equalize(Image.fromarray(frames[0, 0]))))


def test_draws_are_one_a_video_and_decided_by_the_key(clip):
    still = np.repeat(clip[None, :1], 12, axis=0).repeat(3, axis=1)  # twelve videos of three equal frames
    draw = jax.jit(functools.partial(rand_augment.apply, layers=2, magnitude=15.0))
    one, same, other = (np.asarray(draw(jax.random.key(k), still)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(one[:, :1].repeat(3, axis=1), one)  # alike for all frames
    assert len({video.tobytes() for video in one}) > 8 and (one != other).any()
    assert one.min() >= 0 and one.max() <= 255 and (one == np.round(one)).all()
