"""Attention inside windows, with a bias for each pair of cells: in XLA's operations, and as a kernel for TPUs.

Windows are small (4 frames of 7 x 7 cells: 196) and heads narrow (32 channels), so that XLA for TPUs spends ten times longer on
logits that travel through HBM, and on changing layouts, than on products (`docs/performance.md`). The kernel holds a window's
logits on the chip, in the forward and in the backward pass, and recomputes them there. Both compute the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from snp_jax.models.kernel_parts import (
    LANES,
    channels_of,
    cost,
    largest_divisor,
    product,
    softmax,
    softmax_gradient,
)
from snp_jax.models.remat import keep_kernel_result

SHIFT_MASK = -100.0
"""Added to attention logits between cells that only the cyclic shift made neighbours."""
WINDOWS, MANY_CELLS = 8, 256
"""Windows a step of the grid, at most; one where it has more cells, so that a v4 chip has room for it (16 MiB)."""
VMEM_BYTES = 48 * 2**20
"""What the kernel may use of the memory on the chip, where there is as much."""


def attend_by_xla(query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array, labels: np.ndarray | None) -> jax.Array:
    """Attention of the cells of each window to each other.

    Args:
        query, key, value: `[B, W, N, C]`, C = heads times their width; not scaled.
        bias: float32 `[H, N, N]`.
        labels: int32 `[W, N]` or None: logits of cells with different labels get `SHIFT_MASK`.

    Returns:
        `[B, W, N, C]` in the dtype of `query`. Logits and softmax are float32.
    """
    heads = bias.shape[0]
    query, key, value = (x.reshape(*x.shape[:3], heads, -1) for x in (query, key, value))  # [B, W, N, H, C/H]
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bwqhd,bwkhd->bwhqk", query, key, preferred_element_type=jnp.float32)
    logits = logits + bias  # [B, W, H, N, N]
    if labels is not None:
        rows = jnp.asarray(labels)
        same = rows[:, None, :, None] == rows[:, None, None, :]  # [W, 1, N, N]
        logits = logits + jnp.where(same, 0.0, SHIFT_MASK)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    context = jnp.einsum("bwhqk,bwkhd->bwqhd", weights, value)
    return context.reshape(*context.shape[:3], -1)


def kernel_fits(channels: int, heads: int) -> bool:
    """Whether the kernel knows these sizes: registers hold whole heads."""
    return LANES % (channels // heads) == 0 and (channels % LANES == 0 or channels < LANES)


def attend_by_kernel(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array, labels: np.ndarray | None, *, interpret: bool = False
) -> jax.Array:
    """`attend_by_xla` as one kernel for TPUs; arrays are those of one device. `interpret` runs it elsewhere, slowly."""
    windows = [x.reshape(-1, *x.shape[2:]) for x in (query, key, value)]  # [B * W, N, C]
    labels = None if labels is None else jnp.asarray(labels, jnp.int32)
    return keep_kernel_result(_attend(*windows, bias, labels, interpret)).reshape(query.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(query, key, value, bias, labels, interpret):
    return _run(_forward, "window_attention", (query, key, value), bias, labels, (), [query], 2, interpret)[0]


def _attend_forward(query, key, value, bias, labels, interpret):
    return _attend(query, key, value, bias, labels, interpret), (query, key, value, bias, labels)


def _attend_backward(interpret, saved, gradient):
    query, key, value, bias, labels = saved
    name, results = "window_attention_backward", [query, key, value, bias]
    return *_run(_backward, name, (query, key, value), bias, labels, (gradient,), results, 4, interpret), None


_attend.defvjp(_attend_forward, _attend_backward)


class Grid(NamedTuple):
    """The steps of a kernel: `parts` of the channels x `steps` with `windows` windows each."""

    parts: int
    steps: int
    windows: int


def grid_of(count: int, cells: int, channels: int, period: int | None) -> Grid:
    """The grid for `[count, cells, channels]`; no step has windows from both sides of a multiple of `period`."""
    most = WINDOWS if cells <= MANY_CELLS else 1
    windows = largest_divisor(period or count, most)
    return Grid(max(channels // LANES, 1), count // windows, windows)


def _run(
    kernel: Callable[..., None],
    name: str,
    windows: Sequence[jax.Array],
    bias: jax.Array,
    labels: jax.Array | None,
    more: Sequence[jax.Array],
    results: Sequence[jax.Array],
    products: int,
    interpret: bool,
) -> list[jax.Array]:
    """Calls a kernel on `grid_of` its arrays.

    Args:
        windows, more: `[R, N, C]`, of which a step gets some windows and 128 channels.
        bias: `[H, N, N]`, of which a step gets that of its heads.
        labels: int32 `[W, N]`; R is a multiple of W.
        results: arrays that results are like: `bias`, or one of `windows`.
        products: matrix products of a head's size that the kernel is for.
    """
    (count, cells, channels), heads = windows[0].shape, bias.shape[0]
    grid = grid_of(count, cells, channels, None if labels is None else labels.shape[0])
    window_block = pl.BlockSpec((grid.windows, cells, channels // grid.parts), lambda part, step: (step, 0, part))
    bias_shape = (heads // grid.parts, cells, cells)
    bias_block = pl.BlockSpec(bias_shape, lambda part, step: (part, 0, 0), pipeline_mode=pl.Buffered(1))
    given, given_blocks = [], []
    if labels is not None:
        given = [labels[:, :, None], labels[:, None, :]]  # of the asking cells, of the others
        repeat = labels.shape[0] // grid.windows
        given_blocks = [
            pl.BlockSpec((grid.windows, *each.shape[1:]), lambda part, step: (lax.rem(step, repeat), 0, 0)) for each in given
        ]
    return pl.pallas_call(
        functools.partial(kernel, head_width=channels // heads, labelled=labels is not None),
        grid=(grid.parts, grid.steps),
        in_specs=[*[window_block] * len(windows), bias_block, *given_blocks, *[window_block] * len(more)],
        out_specs=[bias_block if each is bias else window_block for each in results],
        out_shape=[jax.ShapeDtypeStruct(each.shape, each.dtype) for each in results],
        # The gradient of the bias is added up over the windows, one after the other.
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES),
        cost_estimate=cost(count * cells, cells, channels, heads, products, [*windows, bias, *more, *results]),
        interpret=interpret,
        name=name,
    )(*windows, bias, *given, *more)


# ---------------------------------------------------------------------- kernels
def _forward(query, key, value, bias, *more, head_width: int, labelled: bool) -> None:
    *labels, context = more

    def window(index: jax.Array, _: None) -> None:
        q, k, v = _scaled(query[index], head_width), key[index], value[index]
        apart = _labels_differ(labels, index) if labelled else None
        total = jnp.zeros(q.shape, jnp.float32)
        for head in range(bias.shape[0]):
            here = channels_of(head, head_width, q.shape)
            weights = _weights(jnp.where(here, q, 0), k, bias[head], apart)
            total = jnp.where(here, product(weights.astype(v.dtype), v), total)
        context[index] = total.astype(context.dtype)

    lax.fori_loop(0, query.shape[0], window, None)


def _backward(query, key, value, bias, *more, head_width: int, labelled: bool) -> None:
    *labels, gradient, d_query, d_key, d_value, d_bias = more

    @pl.when(pl.program_id(1) == 0)
    def _():
        d_bias[...] = jnp.zeros(d_bias.shape, d_bias.dtype)

    def window(index: jax.Array, _: None) -> None:
        q, k, v, g = _scaled(query[index], head_width), key[index], value[index], gradient[index]
        apart = _labels_differ(labels, index) if labelled else None
        d_q = d_k = d_v = jnp.zeros(q.shape, jnp.float32)
        for head in range(bias.shape[0]):
            here = channels_of(head, head_width, q.shape)
            weights = _weights(jnp.where(here, q, 0), k, bias[head], apart)
            d_weights = product(jnp.where(here, g, 0), v, transpose_right=True)
            d_logits = softmax_gradient(weights, d_weights)
            d_bias[head] += d_logits
            d_logits = d_logits.astype(q.dtype)
            d_q = jnp.where(here, product(d_logits, k), d_q)
            d_k = jnp.where(here, product(d_logits, q, transpose_left=True), d_k)
            d_v = jnp.where(here, product(weights.astype(g.dtype), g, transpose_left=True), d_v)
        d_query[index] = _scaled(d_q, head_width).astype(d_query.dtype)
        d_key[index] = d_k.astype(d_key.dtype)
        d_value[index] = d_v.astype(d_value.dtype)

    lax.fori_loop(0, query.shape[0], window, None)


def _scaled(query: jax.Array, head_width: int) -> jax.Array:
    return query * head_width**-0.5


def _labels_differ(labels: Sequence[Any], index: jax.Array) -> jax.Array:
    asking, others = labels
    return asking[index] != others[index]  # [N, 1] and [1, N]


def _weights(query: jax.Array, key: jax.Array, bias: jax.Array, apart: jax.Array | None) -> jax.Array:
    """Softmax of a head's logits, float32 `[N, N]`."""
    logits = product(query, key, transpose_right=True) + bias
    if apart is not None:
        logits = jnp.where(apart, logits + SHIFT_MASK, logits)
    return softmax(logits)
