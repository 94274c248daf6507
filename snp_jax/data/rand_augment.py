"""RandAugment (Cubuk et al. 2020) for videos, on the device: all frames of a video get the same operations and strength.

The fourteen operations of the paper's ImageNet experiments and their ranges, as Pillow computes them; statistics (contrast,
equalisation) are those of each frame. Operations are not branched on: a layer computes the four kinds below for every video
and picks one, so that it runs alike on every row of a sharded batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

TOP = 30.0
"""The strongest magnitude."""
OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness",
    "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
_WARPS, _BLENDS = OPERATIONS[:6], OPERATIONS[6:10]
_LUMA = (0.299, 0.587, 0.114)
_SHEAR, _SHIFT, _TURN_DEGREES, _BLEND = 0.3, 150.0 / 331.0, 30.0, 0.9  # at TOP


def apply(key: jax.Array, frames: jax.Array, layers: int, magnitude: float) -> jax.Array:
    """Changes videos by `layers` operations each, drawn uniformly.

    Args:
        frames: `[B, T, H, W, 3]` in 0..255.
        magnitude: 0 (nearly nothing) to `TOP`; the direction of operations that have one is drawn.

    Returns:
        float32 of the same shape in 0..255.
    """
    videos = frames.shape[0]
    frames = jnp.round(frames.astype(jnp.float32))
    for layer in range(layers):
        operation_key, sign_key = jax.random.split(jax.random.fold_in(key, layer))
        operation = jax.random.randint(operation_key, (videos,), 0, len(OPERATIONS))
        strength = jnp.where(jax.random.bernoulli(sign_key, 0.5, (videos,)), 1.0, -1.0) * magnitude / TOP
        frames = change(frames, operation, strength)
    return frames


def change(frames: jax.Array, operation: jax.Array, strength: jax.Array) -> jax.Array:
    """One operation a video.

    Args:
        frames: float32 `[B, T, H, W, 3]`, whole numbers in 0..255.
        operation: int32 `[B]`, index into `OPERATIONS`.
        strength: float32 `[B]` in -1..1; only those with a direction read its sign.

    Returns:
        float32 of the same shape, whole numbers.
    """
    here = dict(zip(OPERATIONS, range(len(OPERATIONS)), strict=True))
    warped = jax.vmap(_warp)(frames, _matrices(operation, strength, frames.shape[2:4]))

    def is_in(names: tuple[str, ...]) -> jax.Array:
        return ((operation >= here[names[0]]) & (operation <= here[names[-1]]))[:, None, None, None, None]

    def chosen(name: str) -> jax.Array:
        return is_in((name,))

    blended = _blend(frames, jnp.stack([operation == here[name] for name in _BLENDS], axis=1), strength)
    size = jnp.abs(strength)[:, None, None, None, None]
    result = jnp.where(is_in(_BLENDS), blended, warped)
    result = jnp.where(chosen("posterize"), posterize(frames, 8.0 - jnp.round(4.0 * size)), result)
    result = jnp.where(chosen("solarize"), jnp.where(frames < 255.0 * (1.0 - size), frames, 255.0 - frames), result)
    result = jnp.where(chosen("autocontrast"), autocontrast(frames), result)
    return jnp.where(chosen("equalize"), equalize(frames), result)


# ---------------------------------------------------------------------- shape
def _matrices(operation: jax.Array, strength: jax.Array, size: tuple[int, int]) -> jax.Array:
    """(x, y) of the source = M (x, y, 1) of the result, in pixels, `[B, 2, 3]`; the identity for what does not move pixels."""
    height, width = size
    zero, one = jnp.zeros_like(strength), jnp.ones_like(strength)
    angle = jnp.deg2rad(_TURN_DEGREES * strength)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2.0, height / 2.0
    rows = {
        "identity": (one, zero, zero, zero, one, zero),
        "shear_x": (one, _SHEAR * strength, zero, zero, one, zero),
        "shear_y": (one, zero, zero, _SHEAR * strength, one, zero),
        "translate_x": (one, zero, _SHIFT * width * strength, zero, one, zero),
        "translate_y": (one, zero, zero, zero, one, _SHIFT * height * strength),
        "rotate": (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y),
    }
    table = jnp.stack([jnp.stack(rows[name], axis=-1) for name in _WARPS], axis=1)  # [B, warps, 6]
    which = jnp.where(operation < len(_WARPS), operation, 0)
    return jnp.take_along_axis(table, which[:, None, None], axis=1).reshape(-1, 2, 3)


def _warp(frames: jax.Array, matrix: jax.Array) -> jax.Array:
    """Frames `[T, H, W, 3]` through one matrix `[2, 3]`, bilinear; what comes from outside is black."""
    height, width = frames.shape[1:3]
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    source_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    source_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    left, top = jnp.floor(source_x - 0.5), jnp.floor(source_y - 0.5)
    right_share, lower_share = source_x - 0.5 - left, source_y - 0.5 - top

    def pixel(rows: jax.Array, columns: jax.Array) -> jax.Array:
        rows = jnp.clip(rows, 0, height - 1).astype(jnp.int32)
        columns = jnp.clip(columns, 0, width - 1).astype(jnp.int32)
        return frames[:, rows, columns]  # [T, H, W, 3]

    right_share, lower_share = right_share[..., None], lower_share[..., None]
    upper = (1 - right_share) * pixel(top, left) + right_share * pixel(top, left + 1)
    lower = (1 - right_share) * pixel(top + 1, left) + right_share * pixel(top + 1, left + 1)
    return jnp.where(inside[..., None], jnp.round((1 - lower_share) * upper + lower_share * lower), 0.0)


# ---------------------------------------------------------------------- colour
def _blend(frames: jax.Array, which: jax.Array, strength: jax.Array) -> jax.Array:
    """Away from a duller picture, or towards it: black, grey, evenly grey, or blurred, as `which` `[B, 4]` (`_BLENDS`) says."""
    grey = jnp.round(frames @ jnp.array(_LUMA))[..., None]  # [B, T, H, W, 1]
    dull = (jnp.zeros_like(frames), grey, jnp.round(grey.mean(axis=(2, 3), keepdims=True)), smooth(frames))
    other = sum(jnp.where(which[:, i, None, None, None, None], picture, 0.0) for i, picture in enumerate(dull))
    factor = (1.0 + _BLEND * strength)[:, None, None, None, None]
    return jnp.clip(jnp.floor(other + factor * (frames - other)), 0.0, 255.0)


def smooth(frames: jax.Array) -> jax.Array:
    """Means of 3 x 3 pixels in which the middle counts five times; the outermost pixels stay."""
    height, width = frames.shape[2:4]
    padded = jnp.pad(frames, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    total = sum(padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)) + 4.0 * frames
    rows, columns = jnp.arange(height), jnp.arange(width)
    inner = ((rows > 0) & (rows < height - 1))[:, None] & ((columns > 0) & (columns < width - 1))
    return jnp.where(inner[..., None], jnp.floor(total / 13.0 + 0.5), frames)


def posterize(frames: jax.Array, bits: jax.Array) -> jax.Array:
    """Keeps the highest `bits` of 8."""
    step = jnp.exp2(8.0 - bits)
    return jnp.floor(frames / step) * step


def autocontrast(frames: jax.Array) -> jax.Array:
    """Stretches each colour of each frame to 0..255."""
    low, high = frames.min(axis=(2, 3), keepdims=True), frames.max(axis=(2, 3), keepdims=True)
    scale = 255.0 / jnp.maximum(high - low, 1.0)
    return jnp.where(high > low, jnp.floor(frames * scale - low * scale + 1e-4), frames)


def equalize(frames: jax.Array) -> jax.Array:
    """Spreads the values of each colour of each frame evenly."""
    values = jnp.moveaxis(frames, -1, 2).reshape(*frames.shape[:2], 3, -1).astype(jnp.int32)  # [B, T, 3, P]
    counts = _histogram(values)  # [B, T, 3, 256]
    highest = jnp.take_along_axis(counts, values.max(axis=-1, keepdims=True), axis=-1)
    step = jnp.floor((counts.sum(axis=-1, keepdims=True) - highest) / 255.0)
    below = jnp.cumsum(counts, axis=-1) - counts
    table = jnp.clip(jnp.floor((jnp.floor(step / 2.0) + below) / jnp.maximum(step, 1.0)), 0.0, 255.0)
    spread = jnp.where(step > 0, jnp.take_along_axis(table, values, axis=-1), values)
    return jnp.moveaxis(spread.reshape(*frames.shape[:2], 3, *frames.shape[2:4]), 2, -1).astype(jnp.float32)


def _histogram(values: jax.Array) -> jax.Array:
    """How often each of 0..255 occurs along the last axis, float32 `[..., 256]`: a product of the upper and lower four bits."""
    digits = jnp.arange(16)
    upper = (values[..., None] // 16 == digits).astype(jnp.float32)  # [..., P, 16]
    lower = (values[..., None] % 16 == digits).astype(jnp.float32)
    precise = jax.lax.Precision.HIGHEST
    counts = jnp.einsum("...pi,...pj->...ij", upper, lower, precision=precise)
    return counts.reshape(*values.shape[:-1], 256)
