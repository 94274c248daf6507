"""Augmentation against a slow version, and what it leaves alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image

from snp_jax.data import augment as augment_module
from snp_jax.data import release
from snp_jax.data.augment import (
    AugmentOptions,
    augment,
    centre_boxes,
    cut,
    evaluation_batch,
    network_frames,
    normalise,
    pixel_mask,
    random_boxes,
    training_batch,
)

OFF = AugmentOptions()


@pytest.fixture(scope="module")
def frames():
    """uint8 `[3, 2, 6, 9, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (3, 2, 6, 9, 3), dtype=np.uint8)


def changed(frames, **options):
    return np.asarray(augment(jax.random.key(3), frames, AugmentOptions(**options)))


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


# ---------------------------------------------------------------------- crops, flips, padding
def resized(image, box, size):
    """Pillow's box (top, left, bottom, right) of float `[H, W, 3]` at (height, width), without rounding."""
    top, left, bottom, right = box
    channels = [Image.fromarray(np.ascontiguousarray(image[..., c], np.float32), mode="F") for c in range(3)]
    box = (left, top, right, bottom)
    return np.stack([np.asarray(c.resize(size[::-1], Image.Resampling.BILINEAR, box=box)) for c in channels], axis=-1)


@pytest.fixture(scope="module")
def large():
    """uint8 `[3, 2, 14, 18, 3]`."""
    return np.random.default_rng(1).integers(0, 256, (3, 2, 14, 18, 3), dtype=np.uint8)


BOXES = np.array([[0.0, 0.0, 14.0, 18.0], [2.3, 1.7, 12.9, 9.2], [5.0, 6.5, 8.0, 10.0]])  # of the three videos


@pytest.mark.parametrize("size", [(5, 7), (14, 18), (21, 16)])
def test_a_cut_is_pillow_s(size, large):
    start, side = BOXES[:, :2], BOXES[:, 2:] - BOXES[:, :2]
    whole = np.tile(np.array([14, 18], np.int32), (3, 1))
    got = np.asarray(cut(large, start, side, size, whole, np.array([False, False, True])))
    for video in range(3):
        for frame in range(2):
            wanted = resized(large[video, frame], BOXES[video], size)
            np.testing.assert_allclose(got[video, frame], wanted[:, ::-1] if video == 2 else wanted, atol=2e-2)


def test_padding_is_never_read_nor_filled(large):
    picture = np.array([[14, 18], [9, 18], [14, 5]], np.int32)
    filled = np.array([[14, 18], [4, 9], [10, 4]], np.int32)
    mirrored = np.array([True, True, False])
    got = np.asarray(cut(large, np.zeros((3, 2)), picture, (14, 18), picture, mirrored, filled))
    for video, ((h, w), (rows, columns)) in enumerate(zip(picture, filled, strict=True)):
        wanted = resized(large[video, 1, :h, :w], (0, 0, h, w), (rows, columns))
        wanted = wanted[:, ::-1] if mirrored[video] else wanted
        np.testing.assert_allclose(got[video, 1, :rows, :columns], wanted, atol=2e-2)
        assert not got[video, :, rows:].any() and not got[video, :, :, columns:].any()


def test_random_boxes_lie_inside_and_have_the_wanted_area_and_ratio():
    picture = np.tile(np.array([[60, 100], [100, 40]], np.int32), (500, 1))
    start, side = map(np.asarray, random_boxes(jax.random.key(0), picture, (0.1, 0.4), (0.5, 2.0)))
    assert (start >= 0).all() and (start + side <= picture + 1e-3).all()
    free = (side < picture).all(axis=1)  # the others were cut to the picture
    area, ratio = (side.prod(axis=1) / picture.prod(axis=1))[free], (side[:, 1] / side[:, 0])[free]
    assert 0.1 <= area.min() < 0.12 and 0.36 < area.max() <= 0.4 + 1e-5
    assert 0.5 - 1e-4 <= ratio.min() < 0.55 and 1.8 < ratio.max() <= 2.0 + 1e-4
    assert free.mean() > 0.8 and np.abs(np.median(np.log(ratio))) < 0.1
    room = (picture - side)[free]
    np.testing.assert_allclose((start[free] / room).mean(axis=0), 0.5, atol=0.05)


def test_the_crop_of_evaluation_is_the_centre(large):
    picture = np.array([[14, 18], [14, 10], [8, 18]], np.int32)
    options = AugmentOptions(crop_size=(6, 6), crop_area=(0.1, 0.2), flip=1.0, rand_ops=2)
    batch = evaluation_batch({"video": large, "frame_size": picture, "valid": 1}, options)
    assert batch.keys() == {"video", "valid"}
    for video, (h, w) in enumerate(picture):
        side = 0.875 * min(h, w)
        box = ((h - side) / 2, (w - side) / 2, (h + side) / 2, (w + side) / 2)
        wanted = resized(large[video, 0, :h, :w], box, (6, 6))
        np.testing.assert_allclose(batch["video"][video, 0], wanted, atol=2e-2)
    _, side = centre_boxes(np.array([[100, 300]], np.int32), (2, 4))
    np.testing.assert_allclose(side, [[87.5, 175.0]])


@pytest.mark.parametrize("corner", [False, True])
def test_the_padding_mask_by_both_rules(corner):
    sizes = [(3, 5), (4, 2), (1, 1), (4, 5)]
    _, wanted = release.pad_images([np.ones((*size, 3)) for size in sizes], corner=corner)
    np.testing.assert_array_equal(pixel_mask(np.array(sizes), (4, 5), corner=corner), wanted)


def test_padding_is_zero_for_the_network_and_masked(large):
    picture = np.array([[14, 18], [9, 18], [14, 5]], np.int32)
    for corner in (False, True):
        batch = training_batch(jax.random.key(0), {"video": large, "frame_size": picture}, AugmentOptions(corner_mask=corner))
        assert batch["video"] is large and batch["pixel_mask"].shape == (3, 2, 14, 18)
        frames = np.asarray(network_frames(batch, np.float32))
        np.testing.assert_allclose(frames[1, :, :9], normalise(large[1, :, :9], np.float32))
        assert not frames[1, :, 9:].any() and not frames[2, :, :, 5:].any()
        assert bool(batch["pixel_mask"][1, 0, 13, 0]) is corner


def test_random_scale_pads_and_keeps_the_frames_of_a_video_together(large):
    still = large[:, :1].repeat(2, axis=1)
    options = AugmentOptions(scale=0.3, flip=0.5)
    batch = training_batch(jax.random.key(1), {"video": still}, options)
    sizes = np.asarray(batch["frame_size"])
    assert len({tuple(size) for size in sizes.tolist()}) > 1
    assert (sizes >= (4, 5)).all() and (sizes <= (14, 18)).all()
    np.testing.assert_array_equal(batch["pixel_mask"][:, 0].sum(axis=(1, 2)), sizes.prod(axis=1))
    np.testing.assert_array_equal(batch["video"][:, 0], batch["video"][:, 1])


def test_a_whole_recipe_gives_crops_in_range(large):
    options = AugmentOptions(crop_size=(8, 8), crop_area=(0.3, 1.0), crop_ratio=(0.75, 4 / 3), flip=0.5, rand_ops=1, light=0.1)
    run = jax.jit(lambda key, batch: training_batch(key, batch, options))
    batch = {"video": large, "frame_size": np.array([[14, 18], [9, 18], [14, 5]], np.int32)}
    one, same, other = (run(jax.random.key(k), batch) for k in (0, 0, 1))
    assert one.keys() == {"video"} and one["video"].shape == (3, 2, 8, 8, 3)
    assert one["video"].min() >= 0 and one["video"].max() <= 255
    np.testing.assert_array_equal(one["video"], same["video"])
    assert (np.asarray(one["video"]) != np.asarray(other["video"])).any()
    assert augment_module.CENTRE_SHARE == 224 / 256
