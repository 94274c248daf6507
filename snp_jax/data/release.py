"""How the authors' release resizes and pads frames: what its checkpoints were trained and scored with.

For parity; the project's own way is in `decode`. Which frames it picks is `sampling.ExclusiveSegments`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def resize(frames: jax.Array, size: tuple[int, int], *, antialias: bool = False) -> jax.Array:
    """Bilinear resizing of `[..., H, W, C]` to (height, width), float32.

    Args:
        antialias: torchvision resized float frames without it when the paper's checkpoints were trained; since 0.17, with it.
    """
    shape = (*frames.shape[:-3], *size, frames.shape[-1])
    return jax.image.resize(frames.astype(jnp.float32), shape, "linear", antialias=antialias)


def pad_images(images: Sequence[np.ndarray], *, corner: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images of several sizes as one batch, zeros at the bottom and at the right.

    Args:
        images: `[h, w, C]` each.
        corner: as the release does, call padding only what lies below AND to the right of an image; False: below OR to the
            right (method.md section 7, item 10).

    Returns:
        (`[B, H, W, C]` of the largest height and width, bool `[B, H, W]`, True = real).
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    batch = np.zeros((len(images), height, width, images[0].shape[2]), images[0].dtype)
    real = np.zeros(batch.shape[:3], bool)
    for row, image in enumerate(images):
        h, w = image.shape[:2]
        batch[row, :h, :w] = image
        inside = np.arange(height)[:, None] < h, np.arange(width)[None] < w
        real[row] = inside[0] | inside[1] if corner else inside[0] & inside[1]
    return batch, real
