"""Types and small layers that several models share. Whole networks live in their own files."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from snp_jax.models import backend
from snp_jax.models.layer_norm import branch_by_kernel, normalise_by_kernel, rows_of_step


class VisualGrid(NamedTuple):
    """What every visual encoder returns.

    Attributes:
        grid: features `[B, T, h, w, C]`, h = ceil(H / 32), w = ceil(W / 32).
        mask: bool `[B, T, h, w]`, True where the cell covers real (un-padded) pixels.
    """

    grid: jax.Array
    mask: jax.Array


def grid_mask(pixel_mask: jax.Array | None, grid_shape: tuple[int, ...]) -> jax.Array:
    """Nearest down-sampling of a pixel mask: cell i reads pixel floor(i * H / h), like PyTorch's "nearest".

    Args:
        pixel_mask: bool `[B, T, H, W]`, True = real, or None when no pixel is padding.
        grid_shape: (B, T, h, w, ...); what follows w is ignored.

    Returns:
        bool `[B, T, h, w]`.
    """
    height, width = grid_shape[2:4]
    if pixel_mask is None:
        return jnp.ones(grid_shape[:4], bool)
    rows = np.arange(height) * pixel_mask.shape[2] // height
    columns = np.arange(width) * pixel_mask.shape[3] // width
    return pixel_mask[:, :, rows][:, :, :, columns]


def drop_path_rates(rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Stochastic depth rate of each stage's blocks, rising linearly from 0 at the first to `rate` at the very
    last."""
    total = sum(depths)
    rates = [rate * i / max(total - 1, 1) for i in range(total)]
    starts = np.cumsum([0, *depths])
    return [rates[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]


SUBLANES = 8
"""Rows of a TPU's vector register."""


def gelu(x: jax.Array) -> jax.Array:
    """Exact (erf) GELU. `jax.nn.gelu` goes through erfc, which costs twice as much on the CPU."""
    return 0.5 * x * (1.0 + lax.erf(x * np.sqrt(0.5).astype(x.dtype)))


class Dense(nn.Module):
    """A linear layer over the last axis; parameters as those of `nn.Dense`."""

    width: int
    dtype: Any
    kernel_init: Any
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,)) if self.use_bias else None
        return linear(x.astype(self.dtype), kernel.astype(self.dtype), None if bias is None else bias.astype(self.dtype))


def dense(width: int, dtype: Any, name: str, use_bias: bool = True) -> Dense:
    """A linear layer initialised as in vision transformers (truncated normal, 0.02)."""
    return Dense(width, dtype, nn.initializers.truncated_normal(0.02), use_bias, name=name)


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """`[..., C] @ [C, D] + [D]`, on a two-dimensional view.

    The gradient to the kernel then contracts one axis instead of several, for which XLA's CPU code would first write a
    transposed copy of the activations.
    """
    rows = x.reshape(-1, x.shape[-1]) @ kernel
    if bias is not None:
        rows = _add_bias(rows, bias) if backend.for_tpu() else rows + bias
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`[N, D] + [D]`. The bias gets its gradient by a product with ones: XLA for TPUs adds up rows ten times more slowly."""
    return x + bias


def _add_bias_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    ones = jnp.ones((SUBLANES, gradient.shape[0]), gradient.dtype)
    return gradient, jnp.matmul(ones, gradient, preferred_element_type=jnp.float32)[0].astype(gradient.dtype)


_add_bias.defvjp(lambda x, bias: (x + bias, None), _add_bias_backward)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, parameters `scale [C]`, `bias [C]`; statistics are float32 and
    two-pass.

    Attributes:
        branch: it starts a residual branch: called with x, it returns x and its norm, and x is to be used from there on.
            On TPUs the gradients of both are then added up by the kernel.
    """

    epsilon: float
    dtype: Any = jnp.float32
    branch: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array | tuple[jax.Array, jax.Array]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        if backend.kernels_for_tpu() and x.ndim == 2 and rows_of_step(*x.shape):
            by_kernel = branch_by_kernel if self.branch else normalise_by_kernel
            return by_kernel(x, scale, bias, self.epsilon, self.dtype)
        normalise = _normalise_by_products if backend.for_cpu() else _normalise
        normed = normalise(x.astype(jnp.float32), scale, bias, self.epsilon).astype(self.dtype)
        return (x, normed) if self.branch else normed


def _normalise(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """`(x - mean) / sqrt(var + epsilon) * scale + bias` over the last axis of float32 `[..., C]`."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return centred * lax.rsqrt(variance + epsilon) * scale + bias


def _mean(x: jax.Array) -> jax.Array:
    """Mean over the last axis as a matrix product, `[..., C]` -> `[..., 1]`."""
    return x @ jnp.full((x.shape[-1], 1), 1.0 / x.shape[-1], x.dtype)


def column_sum(x: jax.Array) -> jax.Array:
    """Sum over all axes but the last, `[..., C]` -> `[C]`, as a matrix product.

    XLA's CPU code for such a sum is slow when it computes the summand on the fly, which it does if it can.
    """
    rows = x.reshape(-1, x.shape[-1])
    return (jnp.ones((1, rows.shape[0]), x.dtype) @ rows)[0]


@jax.custom_vjp
def _normalise_by_products(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """`_normalise` for the CPU: every sum is a matrix product, the gradient is the closed form (4x
    faster)."""
    return _normalise_forward(x, scale, bias, epsilon)[0]


def _normalise_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float):
    mean = _mean(x)
    inverse = lax.rsqrt(_mean(jnp.square(x - mean)) + epsilon)
    return (x - mean) * inverse * scale + bias, (x, mean, inverse, scale)


def _normalise_backward(saved: tuple[jax.Array, ...], cotangent: jax.Array):
    x, mean, inverse, scale = saved
    unit = (x - mean) * inverse
    d_unit = cotangent * scale
    d_x = inverse * (d_unit - _mean(d_unit) - unit * _mean(d_unit * unit))
    return d_x, column_sum(cotangent * unit), column_sum(cotangent), None


_normalise_by_products.defvjp(_normalise_forward, _normalise_backward)
