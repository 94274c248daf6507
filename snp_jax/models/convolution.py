"""Convolutions of the visual encoders, in the form that is fast on the backend (`backend.py`).

Kernels have flax's layout `[k, k, C / groups, O]` in every form. Whole networks live in their own files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from snp_jax.models import backend
from snp_jax.models.layers import column_sum

MAX_BANDS = 16
"""Terms written out in the CPU form of the depthwise kernel gradient; more only lengthen compilation."""


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    """2-D convolution with square stride and symmetric zero padding, as PyTorch's `Conv2d`.

    Args:
        x: `[M, H, W, C]`.
        kernel: `[k, k, C, O]`.

    Returns:
        `[M, (H + 2p - k) // s + 1, (W + 2p - k) // s + 1, O]`; trailing rows and columns that no window
        covers are dropped.
    """
    if kernel.shape[0] == 1 and padding == 0:  # a matrix product on every backend
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    if stride == 1 or not backend.for_cpu():
        return _native(x, kernel, stride, padding)
    return _strided(x, kernel, stride, padding)


def _native(x: jax.Array, kernel: jax.Array, stride: int, padding: int, groups: int = 1) -> jax.Array:
    pads = ((padding, padding), (padding, padding))
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=layout, feature_group_count=groups)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _strided(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """`_native` with another gradient to `x`: a matrix product, its rows added back where they came from.

    On the CPU, XLA's own gradient (a dilated convolution) is up to fifteen times slower.
    """
    return _native(x, kernel, stride, padding)


def _strided_forward(x: jax.Array, kernel: jax.Array, stride: int, padding: int):
    return _native(x, kernel, stride, padding), (x, kernel)


def _strided_backward(stride: int, padding: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array):
    x, kernel = saved
    d_kernel = jax.vjp(lambda k: _native(x, k, stride, padding), kernel)[1](cotangent)[0]
    d_patches = cotangent @ kernel.reshape(-1, kernel.shape[-1]).T  # [M, h, w, k*k*C]
    d_x = jax.vjp(lambda y: _patches(y, kernel.shape[0], stride, padding), x)[1](d_patches)[0]
    return d_x, d_kernel


_strided.defvjp(_strided_forward, _strided_backward)


def _patches(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    """The windows a convolution reads, row-major in (row, column, channel).

    `[M, H, W, C]` -> `[M, h, w, size * size * C]`.
    """
    if size == stride and padding == 0:
        return patchify(x, size)
    count, height, width, channels = x.shape
    out_h, out_w = ((n + 2 * padding - size) // stride + 1 for n in (height, width))
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = (out_h - 1) * stride + 1, (out_w - 1) * stride + 1
    shifted = [
        lax.slice(x, (0, i, j, 0), (count, i + rows, j + columns, channels), (1, stride, stride, 1))
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(shifted, axis=-1)


def patchify(x: jax.Array, size: int) -> jax.Array:
    """Cuts images into squares: `[M, H, W, C]` -> `[M, H // size, W // size, size * size * C]`, dropping a
    remainder."""
    count, height, width, channels = x.shape
    out_h, out_w = height // size, width // size
    x = x[:, : out_h * size, : out_w * size].reshape(count, out_h, size, out_w, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(count, out_h, out_w, size * size * channels)


def depthwise_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 depthwise convolution with zero padding: `x [M, H, W, C]`, `kernel [3, 3, 1, C]` -> `[M, H, W,
    C]`."""
    if not backend.for_cpu():
        return _native(x, kernel, stride=1, padding=1, groups=x.shape[-1])
    return _shift_and_add(x, kernel[:, :, 0])


def _shifts(x: jax.Array) -> list[jax.Array]:
    """The nine views of zero-padded `x [M, H, W, C]` that a 3x3 window reads, in row-major order."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


@jax.custom_vjp
def _shift_and_add(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Depthwise 3x3 as nine multiply-adds: `x [M, H, W, C]`, `kernel [3, 3, C]` -> `[M, H, W, C]`."""
    weights = kernel.reshape(9, -1)
    return sum(view * weight for view, weight in zip(_shifts(x), weights, strict=True))


def _shift_and_add_forward(x: jax.Array, kernel: jax.Array):
    return _shift_and_add(x, kernel), (x, kernel)


def _shift_and_add_backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array):
    """Written by hand because XLA's CPU code for the derived kernel gradient, nine column sums, is not
    vectorised.

    Explicit additions are, so most of each sum is spelled out: the grid is cut into bands of rows, which are
    added.
    """
    x, kernel = saved
    height, width = x.shape[1:3]
    bands = min(height, MAX_BANDS)
    rows = -(-height // bands)
    extra = rows * bands - height
    padded = jnp.pad(x, ((0, 0), (1, 1 + extra), (1, 1), (0, 0)))
    cotangent_bands = jnp.pad(cotangent, ((0, 0), (0, extra), (0, 0), (0, 0)))
    sums = [
        sum(
            padded[:, i + top : i + top + rows, j : j + width] * cotangent_bands[:, top : top + rows]
            for top in range(0, bands * rows, rows)
        )
        for i in range(3)
        for j in range(3)
    ]  # nine of [M, rows, W, C]
    d_kernel = jnp.stack([column_sum(each) for each in sums]).reshape(kernel.shape)
    return _shift_and_add(cotangent, kernel[::-1, ::-1]), d_kernel


_shift_and_add.defvjp(_shift_and_add_forward, _shift_and_add_backward)


class Conv(nn.Module):
    """`conv2d` with parameters `kernel [k, k, C, O]` and, unless switched off, `bias [O]`."""

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


class DepthwiseConv3x3(nn.Module):
    """`depthwise_conv3x3` with parameters `kernel [3, 3, 1, C]` and `bias [C]`."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        # He initialisation with the fan-out of one group (9), as PVTv2 does it
        kernel = self.param("kernel", nn.initializers.normal((2 / 9) ** 0.5), (3, 3, 1, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        return depthwise_conv3x3(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)
