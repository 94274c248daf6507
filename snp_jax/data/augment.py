"""What happens to frames on the device, inside the jitted step: uint8 in; crops, changes, padding masks; normalised floats out.

Every draw is one per video: all its frames are changed alike. Evaluation takes the same way without the draws. Changes of
colour and shape that RandAugment chooses from are in `rand_augment`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from snp_jax.data import rand_augment

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CENTRE_SHARE = 0.875  # of the shorter side that the crop of evaluation has: 224 of 256
Batch = Mapping[str, jax.Array]
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """What is done to frames between the host and the network; a value that changes nothing costs nothing.

    Attributes:
        zoom: at most this factor (>= 1) larger or smaller, log-uniform.
        shift: at most this share of the height and of the width, uniform. Edge pixels are repeated where nothing is left.
        light: contrast at most this share higher or lower; brightness at most this share of 64 grey levels.
        flip: probability of a mirrored video.
        scale: pictures are made smaller by a factor drawn uniformly from [scale, 1], and padded.
        crop_area, crop_ratio: a random crop has this share of the picture's area, uniform, and this aspect ratio (width by
            height), log-uniform; with `crop_size` alone.
        rand_ops: operations of RandAugment a video; 0 = none.
        rand_magnitude: their strength, 0 to `rand_augment.TOP`.
        crop_size: (H, W) of the crop that the network sees; empty = the whole frame. Evaluation crops the centre.
        corner_mask: padding is only what lies below AND to the right of the picture, as in the release.
    """

    zoom: float = 1.0
    shift: float = 0.0
    light: float = 0.0
    flip: float = 0.0
    scale: float = 1.0
    crop_area: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    rand_ops: int = 0
    rand_magnitude: float = 9.0
    crop_size: Size | tuple[()] = ()
    corner_mask: bool = False


def training_batch(key: jax.Array, batch: Batch, options: AugmentOptions) -> dict[str, jax.Array]:
    """A training batch with its frames as the network sees them, but for `network_frames`.

    Args:
        key: of all draws.
        batch: "video" uint8 `[B, T, H, W, 3]` and, of padded pictures, "frame_size" int32 `[B, 2]`; the rest stays as it is.

    Returns:
        The batch with "video" in 0..255 `[B, T, H', W', 3]`, uint8 where nothing is switched on, else float32. Where there is
        padding, with "frame_size" and "pixel_mask" bool `[B, T, H', W']`; elsewhere without them.
    """
    frames, size = batch["video"], batch.get("frame_size")
    videos, canvas = frames.shape[0], frames.shape[2:4]
    scale_key, crop_key, flip_key, rand_key = (jax.random.fold_in(key, n) for n in range(3, 7))
    picture = _whole(frames) if size is None else size
    mirrored = jax.random.bernoulli(flip_key, options.flip, (videos,)) if options.flip else jnp.zeros(videos, bool)
    if options.crop_size:
        start, side = random_boxes(crop_key, picture, options.crop_area, options.crop_ratio)
        frames, size = cut(frames, start, side, options.crop_size, picture, mirrored), None
    elif options.flip or options.scale != 1.0:
        factor = jax.random.uniform(scale_key, (videos, 1), minval=options.scale)
        smaller = jnp.maximum(jnp.floor(picture * factor).astype(jnp.int32), 1) if options.scale != 1.0 else picture
        frames = cut(frames, jnp.zeros((videos, 2)), picture, canvas, picture, mirrored, smaller)
        size = smaller if options.scale != 1.0 else size
    if options.rand_ops:
        frames = rand_augment.apply(rand_key, frames, options.rand_ops, options.rand_magnitude)
    return _with_frames(batch, augment(key, frames, options), size, options)


def evaluation_batch(batch: Batch, options: AugmentOptions) -> dict[str, jax.Array]:
    """`training_batch` without anything random: a crop is the centre, `CENTRE_SHARE` of the shorter side."""
    frames, size = batch["video"], batch.get("frame_size")
    if options.crop_size:
        picture = _whole(frames) if size is None else size
        start, side = centre_boxes(picture, options.crop_size)
        frames, size = cut(frames, start, side, options.crop_size, picture, jnp.zeros(frames.shape[0], bool)), None
    return _with_frames(batch, frames, size, options)


def _whole(frames: jax.Array) -> jax.Array:
    """Picture sizes int32 `[B, 2]` of frames without padding."""
    return jnp.tile(jnp.array(frames.shape[2:4], jnp.int32), (frames.shape[0], 1))


def _with_frames(batch: Batch, frames: jax.Array, size: jax.Array | None, options: AugmentOptions) -> dict[str, jax.Array]:
    """The batch with other frames; `size` says how much of them is no padding (None: all)."""
    rest = {name: value for name, value in batch.items() if name != "frame_size"}
    if size is None:
        return rest | {"video": frames}
    mask = pixel_mask(size, frames.shape[2:4], corner=options.corner_mask)
    mask = jnp.broadcast_to(mask[:, None], frames.shape[:4])
    return rest | {"video": frames, "frame_size": size, "pixel_mask": mask}


def pixel_mask(size: jax.Array, canvas: Size, *, corner: bool) -> jax.Array:
    """Which pixels of a canvas are real: bool `[B, H, W]` for pictures of size int32 `[B, 2]` in its top left corner.

    Args:
        corner: as the release does, call padding only what lies below AND to the right of a picture (method.md section 7,
            item 10).
    """
    rows = jnp.arange(canvas[0]) < size[:, :1]  # [B, H]
    columns = jnp.arange(canvas[1]) < size[:, 1:]  # [B, W]
    either, both = rows[:, :, None] | columns[:, None], rows[:, :, None] & columns[:, None]
    return either if corner else both


# ---------------------------------------------------------------------- crops
def random_boxes(
    key: jax.Array, picture: jax.Array, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[jax.Array, jax.Array]:
    """Boxes of a random area and aspect ratio at a random place inside pictures of size int32 `[B, 2]`.

    A side that would be longer than the picture's is that one.

    Returns:
        (start, side), float32 `[B, 2]` (rows, columns) each.
    """
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    videos, size = picture.shape[0], picture.astype(jnp.float32)
    wanted = size.prod(axis=1) * jax.random.uniform(area_key, (videos,), minval=area[0], maxval=area[1])
    low, high = jnp.log(jnp.array(ratio))
    aspect = jnp.exp(jax.random.uniform(ratio_key, (videos,), minval=low, maxval=high))
    side = jnp.stack([jnp.sqrt(wanted / aspect), jnp.sqrt(wanted * aspect)], axis=1)
    side = jnp.clip(side, 1.0, size)
    return jax.random.uniform(place_key, (videos, 2)) * (size - side), side


def centre_boxes(picture: jax.Array, crop: Size) -> tuple[jax.Array, jax.Array]:
    """The largest boxes with the aspect ratio of `crop` in the centre of pictures, made smaller by `CENTRE_SHARE`."""
    size, shape = picture.astype(jnp.float32), jnp.array(crop, jnp.float32)
    side = CENTRE_SHARE * (size / shape).min(axis=1, keepdims=True) * shape
    return (size - side) / 2.0, side


def cut(
    frames: jax.Array, start: jax.Array, side: jax.Array, canvas: Size, picture: jax.Array, mirrored: jax.Array,
    filled: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """Cuts a box out of every frame and resizes it: bilinear, antialiased when it gets smaller (as Pillow does it).

    Args:
        frames: `[B, T, H, W, 3]`.
        start, side: the boxes, `[B, 2]` (rows, columns), in pixels; parts of pixels count.
        canvas: (H', W') of the result.
        picture: int32 `[B, 2]`, what is real of a frame; nothing outside it is read.
        mirrored: bool `[B]`, left and right change places.
        filled: int32 `[B, 2]`, the box becomes so large and the rest of the canvas 0; None = it fills the canvas.

    Returns:
        float32 `[B, T, H', W', 3]`.
    """
    filled = jnp.tile(jnp.array(canvas, jnp.int32), (frames.shape[0], 1)) if filled is None else filled
    rows, columns = (
        _weights(start[:, i], side[:, i], filled[:, i], canvas[i], picture[:, i], frames.shape[2 + i], flip)
        for i, flip in enumerate((jnp.zeros_like(mirrored), mirrored))
    )
    return _resample(frames, rows, columns)


def _resample(frames: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Frames `[B, T, H, W, 3]` by the weights of each axis, `[B, H', H]` and `[B, W', W]`: float32 `[B, T, H', W', 3]`."""
    frames = jnp.einsum("brh,bthwc->btrwc", rows, frames.astype(jnp.float32))
    return jnp.einsum("bsw,btrwc->btrsc", columns, frames)


def _weights(start, side, filled, outputs: int, real, inputs: int, flip) -> jax.Array:
    """Weights `[B, outputs, inputs]` of one axis; the rest is `[B]`. A triangle as wide as the larger kind of pixel."""
    position = jnp.arange(outputs, dtype=jnp.float32)
    position = jnp.where(flip[:, None], filled[:, None] - 1.0 - position, position)  # [B, outputs]
    scale = (side / filled)[:, None]
    centre = start[:, None] + (position + 0.5) * scale  # in the coordinates in which pixel i is [i, i + 1]
    distance = jnp.abs(centre[..., None] - (jnp.arange(inputs) + 0.5)) / jnp.maximum(scale, 1.0)[..., None]
    weight = jnp.where(jnp.arange(inputs) < real[:, None, None], jax.nn.relu(1.0 - distance), 0.0)
    weight = weight / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-6)
    return jnp.where((jnp.arange(outputs) < filled[:, None])[..., None], weight, 0.0)


# ---------------------------------------------------------------------- zoom, shift, light
def augment(key: jax.Array, frames: jax.Array, options: AugmentOptions) -> jax.Array:
    """Zooms, shifts and relights videos, each one by draws of its own that all its frames share.

    Resampling is bilinear, as two matrix products.

    Args:
        frames: `[B, T, H, W, 3]` in 0..255.

    Returns:
        The same frames where none of the three is switched on, else float32 in 0..255.
    """
    zoom_key, shift_key, light_key = jax.random.split(key, 3)
    videos, (height, width) = frames.shape[0], frames.shape[2:4]
    if options.zoom != 1.0 or options.shift:
        scale = options.zoom ** jax.random.uniform(zoom_key, (videos, 1), minval=-1.0)
        shift = options.shift * jax.random.uniform(shift_key, (videos, 2), minval=-1.0)
        rows, columns = (_resampling(scale, shift[:, i : i + 1], size) for i, size in enumerate((height, width)))
        frames = _resample(frames, rows, columns)
    if options.light:
        contrast, brightness = options.light * jax.random.uniform(light_key, (2, videos, 1, 1, 1, 1), minval=-1.0)
        frames = jnp.clip(frames.astype(jnp.float32) * (1.0 + contrast) + 64.0 * brightness, 0.0, 255.0)
    return frames


def _resampling(scale: jax.Array, shift: jax.Array, size: int) -> jax.Array:
    """Bilinear weights `[B, size, size]` (output, input) of one axis; `scale`, `shift` are `[B, 1]`, `shift` in sizes."""
    centre = (size - 1) / 2.0
    positions = jnp.arange(size, dtype=jnp.float32)
    source = jnp.clip((positions - centre) * scale + centre + shift * size, 0.0, size - 1.0)  # [B, size]
    return jax.nn.relu(1.0 - jnp.abs(source[:, :, None] - positions))


def normalise(frames: jax.Array, dtype: Any) -> jax.Array:
    """RGB `[..., 3]` in 0..255 -> (x / 255 - mean) / std with ImageNet's statistics, in the compute dtype."""
    mean = jnp.asarray(IMAGENET_MEAN, jnp.float32) * 255.0
    scale = 1.0 / (jnp.asarray(IMAGENET_STD, jnp.float32) * 255.0)
    return ((frames.astype(jnp.float32) - mean) * scale).astype(dtype)


def network_frames(batch: Batch, dtype: Any) -> jax.Array:
    """The normalised "video" of `training_batch` or `evaluation_batch`; padding is 0 after it, as in the release."""
    frames, size = normalise(batch["video"], dtype), batch.get("frame_size")
    if size is None:
        return frames
    return jnp.where(pixel_mask(size, frames.shape[2:4], corner=False)[:, None, :, :, None], frames, 0)
