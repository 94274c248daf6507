"""What happens to frames on the device, inside the jitted step: uint8 in, normalised floats out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(frames: jax.Array, dtype: Any) -> jax.Array:
    """RGB uint8 `[..., 3]` -> (x / 255 - mean) / std with ImageNet's statistics, in the compute dtype."""
    mean = jnp.asarray(IMAGENET_MEAN, jnp.float32) * 255.0
    scale = 1.0 / (jnp.asarray(IMAGENET_STD, jnp.float32) * 255.0)
    return ((frames.astype(jnp.float32) - mean) * scale).astype(dtype)
