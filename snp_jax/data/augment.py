"""What happens to frames on the device, inside the jitted step: uint8 in, normalised floats out."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """How far training frames are changed; a value that changes nothing costs nothing.

    Attributes:
        zoom: at most this factor (>= 1) larger or smaller, log-uniform.
        shift: at most this share of the height and of the width, uniform. Edge pixels are repeated where nothing is left.
        light: contrast at most this share higher or lower; brightness at most this share of 64 grey levels.
    """

    zoom: float
    shift: float
    light: float


def augment(key: jax.Array, frames: jax.Array, options: AugmentOptions) -> jax.Array:
    """Zooms, shifts and relights videos, each one by draws of its own that all its frames share.

    Resampling is bilinear, as two matrix products.

    Args:
        frames: uint8 `[B, T, H, W, 3]`.

    Returns:
        The same uint8 frames where nothing is switched on, else float32 in 0..255.
    """
    zoom_key, shift_key, light_key = jax.random.split(key, 3)
    videos, (height, width) = frames.shape[0], frames.shape[2:4]
    if options.zoom != 1.0 or options.shift:
        scale = options.zoom ** jax.random.uniform(zoom_key, (videos, 1), minval=-1.0)
        shift = options.shift * jax.random.uniform(shift_key, (videos, 2), minval=-1.0)
        rows, columns = (_resampling(scale, shift[:, i : i + 1], size) for i, size in enumerate((height, width)))
        frames = jnp.einsum("brh,bthwc->btrwc", rows, frames.astype(jnp.float32))
        frames = jnp.einsum("bsw,btrwc->btrsc", columns, frames)
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
