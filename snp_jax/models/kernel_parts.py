"""What the kernels for TPUs share; most of it is of attention.

A vector register has 128 channels side by side, which are several heads, and the matrix units are as wide. So a product takes
all heads of a register: of one factor the other heads' channels are set to zero, or of the result only the head's are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

LANES = 128
"""Channels that a vector register of a TPU holds side by side; a step of a kernel's grid computes the heads in them."""
ALIGNMENT = 16
"""Rows of bfloat16 that share a vector register: blocks of rows, and windows in them, start at multiples of it."""


def largest_divisor(count: int, most: int, multiple: int = 1) -> int | None:
    """The largest divisor of `count` that is at most `most` and a multiple of `multiple`, or None where there is none."""
    sizes = range(min(count, most) // multiple * multiple, 0, -multiple)
    return next((size for size in sizes if count % size == 0), None)


def cost(rows: int, seen: int, channels: int, heads: int, products: int, moved: Sequence[jax.Array]) -> pl.CostEstimate:
    """What attention of `rows` to `seen` others each needs; what kernels compute beside it, to fill registers, is not in it.

    Args:
        products: matrix products of a head's size.
        moved: arrays that are read or written.
    """
    return pl.CostEstimate(
        flops=2 * products * rows * seen * channels,
        transcendentals=rows * seen * heads,
        bytes_accessed=bytes_of(moved),
    )


def bytes_of(arrays: Sequence[jax.Array | jax.ShapeDtypeStruct]) -> int:
    """Of all of them."""
    return sum(each.size * each.dtype.itemsize for each in arrays)


def product(left: jax.Array, right: jax.Array, *, transpose_left: bool = False, transpose_right: bool = False) -> jax.Array:
    """A matrix product with a float32 result."""
    contracted = ((0 if transpose_left else 1,), (1 if transpose_right else 0,))
    return lax.dot_general(left, right, (contracted, ((), ())), preferred_element_type=jnp.float32)


def channels_of(head: int, width: int, shape: tuple[int, ...]) -> jax.Array:
    """Bool of `shape`, `[N, C]`: which channels are the head's."""
    channel = lax.broadcasted_iota(jnp.int32, shape, 1)
    return (channel >= head * width) & (channel < (head + 1) * width)


def softmax(logits: jax.Array) -> jax.Array:
    """Over the last axis of float32 `[N, M]`."""
    powers = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    total = powers.sum(axis=-1, keepdims=True)
    # A division costs ten operations; two steps of Newton's method on the hardware's estimate cost four.
    inverse = pl.reciprocal(total, approx=True)
    inverse = inverse * (2.0 - total * inverse)
    return powers * (inverse * (2.0 - total * inverse))


def softmax_gradient(weights: jax.Array, gradient: jax.Array) -> jax.Array:
    """Gradient to the logits, given `weights = softmax(logits)` and the gradient to these."""
    return weights * (gradient - (weights * gradient).sum(axis=-1, keepdims=True))
