"""Self-attention of short sequences with padded keys and dropout, as a kernel for TPUs.

A caption with its clip tokens has 35 tokens. XLA for TPUs pads the `[35, 35]` logits of each head to `[40, 128]` and changes
layouts for heads of 64 channels, so that attention takes as long as the rest of a layer (`docs/performance.md`). The kernel
takes the tokens of all sequences as rows below each other, attends within as many sequences at once as fill the matrix units
(three of 35), and keeps logits on the chip in both passes. It computes, and drops, what `bert.SelfAttention` does elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from snp_jax.models.dropout import are_kept, random_bits
from snp_jax.models.kernel_parts import (
    ALIGNMENT,
    LANES,
    channels_of,
    cost,
    largest_divisor,
    product,
    softmax,
    softmax_gradient,
)
from snp_jax.models.remat import keep_kernel_result

ARRAYS = 7
"""Blocks of a step of the backward pass that have the size of its tokens; the next step's are there at the same time."""
VMEM_BYTES = 10 * 2**20
"""What these may take of the memory on the chip: of 16 MiB of a v4 chip, with room for logits and biases."""
APART = -1e30
"""Attention logit between tokens of different sequences."""


class Grid(NamedTuple):
    """The steps of a kernel: `parts` of the channels x `steps` with `sequences` each, in `windows` of `group` sequences.

    A window has `rows` rows; it starts at a multiple of `ALIGNMENT`, so perhaps before its first sequence.
    """

    parts: int
    steps: int
    sequences: int
    windows: int
    group: int
    rows: int


class KernelSizes(NamedTuple):
    """What a kernel is made for: tokens of a sequence, channels of a head, the share of weights that is dropped, the grid."""

    length: int
    width: int
    rate: float
    grid: Grid

    def first_row(self, window: Any, smaller: Callable[[Any, int], Any] = min) -> Any:
        """The first row of a window among the rows of a step. For a traced int32 scalar `smaller` is `jnp.minimum`."""
        aligned = (window * (self.grid.group * self.length)) & -ALIGNMENT
        return smaller(aligned, self.grid.sequences * self.length - self.grid.rows)


def _most_sequences(length: int, dtype: Any) -> int:
    """Sequences whose blocks fit into a chip's memory."""
    return VMEM_BYTES // (2 * ARRAYS * length * LANES * jnp.dtype(dtype).itemsize)


def grid_of(count: int, length: int, channels: int, dtype: Any) -> Grid:
    """The grid for `count` sequences, a multiple of `ALIGNMENT`; a multiple of it has to fit into memory."""

    def rows_of(group: int) -> int:
        before = 0 if group * length % ALIGNMENT == 0 else ALIGNMENT - 1
        return -(-(group * length + before) // ALIGNMENT) * ALIGNMENT

    group = max([1, *(size for size in range(1, ALIGNMENT + 1) if rows_of(size) <= LANES)])
    sequences = largest_divisor(count, _most_sequences(length, dtype), ALIGNMENT)
    return Grid(channels // LANES, count // sequences, sequences, -(-sequences // group), group, rows_of(group))


def kernel_fits(count: int, length: int, channels: int, heads: int, dtype: Any) -> bool:
    """Whether the kernel knows these sizes: blocks of whole registers and whole heads that fit into a chip's memory."""
    return (
        count % ALIGNMENT == 0
        and channels % LANES == 0
        and LANES % (channels // heads) == 0
        and _most_sequences(length, dtype) >= ALIGNMENT
    )


def attend_by_kernel(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array,
    *,
    heads: int,
    rate: float = 0.0,
    seeds: tuple[jax.Array, jax.Array] | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Attention of the tokens of each sequence to each other. Arrays are those of one device.

    Args:
        query, key, value: `[N * L, C]`, C = heads times their width; not scaled.
        bias: float32 `[N, L]`, added to the logits of each key; gets no gradient.
        rate: the share of attention weights that is dropped, drawn as by `dropout.draw_kept` for weights `[N, H, L, L]`.
        seeds: uint32 `[N]` each, from `dropout.row_seeds`; needed if `rate` is not 0.
        interpret: run it elsewhere, slowly.

    Returns:
        `[N * L, C]` in the dtype of `query`. Logits and softmax are float32.
    """
    (count, length), channels = bias.shape, query.shape[1]
    grid = grid_of(count, length, channels, query.dtype)
    sizes = KernelSizes(length, channels // heads, rate, grid)
    rows = bias.reshape(grid.steps, -1)
    starts = [sizes.first_row(window) for window in range(grid.windows)]
    bias = jnp.stack([rows[:, start : start + grid.rows] for start in starts], axis=1)[:, :, None]  # [steps, windows, 1, rows]
    seeds = tuple(seed.reshape(grid.steps, 1, -1) for seed in seeds) if rate else ()
    return keep_kernel_result(_attend(query * sizes.width**-0.5, key, value, bias, seeds, sizes, interpret))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(query, key, value, bias, seeds, sizes, interpret):
    return _run(_forward, "sequence_attention", (query, key, value), bias, seeds, (), 1, 2, sizes, interpret)[0]


def _attend_forward(query, key, value, bias, seeds, sizes, interpret):
    return _attend(query, key, value, bias, seeds, sizes, interpret), (query, key, value, bias, seeds)


def _attend_backward(sizes, interpret, saved, gradient):
    *rows, bias, seeds = saved
    name = "sequence_attention_backward"
    return *_run(_backward, name, rows, bias, seeds, (gradient,), 3, 4, sizes, interpret), None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _run(
    kernel: Callable[..., None],
    name: str,
    rows: Sequence[jax.Array],
    bias: jax.Array,
    seeds: Sequence[jax.Array],
    more: Sequence[jax.Array],
    results: int,
    products: int,
    sizes: KernelSizes,
    interpret: bool,
) -> list[jax.Array]:
    """Calls a kernel on the grid.

    Args:
        rows, more: `[N * L, C]`, as are the results; of these a step gets the rows of its sequences and 128 channels.
        bias: float32 `[steps, windows, 1, rows]`.
        seeds: uint32 `[steps, 1, sequences]` each.
        results: how many there are.
        products: matrix products of a head's size that the kernel is for.
    """
    grid, (all_rows, channels) = sizes.grid, rows[0].shape
    rows_block = pl.BlockSpec((grid.sequences * sizes.length, LANES), lambda part, step: (step, part))
    bias_block = pl.BlockSpec((1, *bias.shape[1:]), lambda part, step: (step, 0, 0, 0))
    seeds_block = pl.BlockSpec((1, 1, grid.sequences), lambda part, step: (step, 0, 0), memory_space=pltpu.SMEM)
    heads = channels // sizes.width
    return pl.pallas_call(
        functools.partial(kernel, sizes=sizes),
        grid=(grid.parts, grid.steps),
        in_specs=[*[rows_block] * len(rows), bias_block, *[seeds_block] * len(seeds), *[rows_block] * len(more)],
        out_specs=[rows_block] * results,
        out_shape=[jax.ShapeDtypeStruct(rows[0].shape, rows[0].dtype)] * results,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=cost(all_rows, sizes.length, channels, heads, products, [*rows, *more, *rows[:results]]),
        interpret=interpret,
        name=f"{name}_of_{sizes.length}_in_{heads}",  # read by snp_jax/aot/kernels.py
    )(*rows, bias, *seeds, *more)


# ---------------------------------------------------------------------- kernels
def _forward(query, key, value, bias, *more, sizes: KernelSizes) -> None:
    *seeds, context = more
    heads = _heads(sizes)

    def attend(index: jax.Array, _: None) -> None:
        window = _Window(index, bias, seeds, sizes)
        q, k, v = window.read(query), window.read(key), window.read(value)
        total = jnp.zeros(q.shape, jnp.float32)
        for head, number in heads:
            here = channels_of(head, sizes.width, q.shape)
            weights = window.dropped(window.weights(jnp.where(here, q, 0), k), window.kept(number))
            total = jnp.where(here, product(weights.astype(v.dtype), v), total)
        window.write(context, total)

    lax.fori_loop(0, sizes.grid.windows, attend, None)


def _backward(query, key, value, bias, *more, sizes: KernelSizes) -> None:
    *seeds, gradient, d_query, d_key, d_value = more
    heads = _heads(sizes)

    def attend(index: jax.Array, _: None) -> None:
        window = _Window(index, bias, seeds, sizes)
        q, k, v = window.read(query), window.read(key), window.read(value)
        g = jnp.where(window.inside, window.read(gradient), 0)  # rows of other windows give no gradient to keys and values
        d_q = d_k = d_v = jnp.zeros(q.shape, jnp.float32)
        for head, number in heads:
            here = channels_of(head, sizes.width, q.shape)
            weights, kept = window.weights(jnp.where(here, q, 0), k), window.kept(number)
            d_weights = window.dropped(product(jnp.where(here, g, 0), v, transpose_right=True), kept)
            d_logits = softmax_gradient(weights, d_weights).astype(q.dtype)
            d_q = jnp.where(here, product(d_logits, k), d_q)
            d_k = jnp.where(here, product(d_logits, q, transpose_left=True), d_k)
            d_v = jnp.where(here, product(window.dropped(weights, kept).astype(g.dtype), g, transpose_left=True), d_v)
        window.write(d_query, d_q)
        window.write(d_key, d_k)
        window.write(d_value, d_v)

    lax.fori_loop(0, sizes.grid.windows, attend, None)


def _heads(sizes: KernelSizes) -> list[tuple[int, jax.Array]]:
    """The heads of a step's channels: their numbers among these, and among all."""
    count = LANES // sizes.width
    return [(head, pl.program_id(0) * count + head) for head in range(count)]


class _Window:
    """Rows of some sequences, and which of them see each other.

    Attributes:
        inside: bool `[rows, 1]`, whether a row is of this window's sequences.
    """

    def __init__(self, index: jax.Array, bias, seeds: Sequence[Any], sizes: KernelSizes):
        self._sizes, grid = sizes, sizes.grid
        first = sizes.first_row(index, jnp.minimum)
        self._rows = pl.ds(pl.multiple_of(first, ALIGNMENT), grid.rows)
        self._bias = bias[0, index]  # [1, rows]
        offset = first - index * (grid.group * sizes.length)
        self.inside, sequence, place = self._tokens((grid.rows, 1), offset)
        key_inside, key_sequence, key_place = self._tokens((1, grid.rows), offset)
        self._together = sequence == jnp.where(key_inside, key_sequence, -1)  # [rows, rows]
        if sizes.rate:
            self._place = (place * sizes.length + key_place).astype(jnp.uint32)
            self._seeds = [self._seed(seed, sequence, index) for seed in seeds]

    def _tokens(self, shape: tuple[int, int], offset: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of each row: whether it is inside, its sequence in the window, its place there. Rows outside get the nearest."""
        length, group = self._sizes.length, self._sizes.grid.group
        row = lax.broadcasted_iota(jnp.int32, shape, int(shape[0] == 1)) + offset
        sequence = sum(((row >= each * length).astype(jnp.int32) for each in range(1, group)), jnp.zeros_like(row))
        return (row >= 0) & (row < group * length), sequence, row - sequence * length

    def _seed(self, seed: Any, sequence: jax.Array, index: jax.Array) -> jax.Array:
        """The seed of each row's sequence, uint32 `[rows, 1]`."""
        grid, column = self._sizes.grid, jnp.zeros(sequence.shape, jnp.uint32)
        for each in range(grid.group):
            number = jnp.minimum(index * grid.group + each, grid.sequences - 1)
            column = jnp.where(sequence == each, seed[0, 0, number], column)
        return column

    def read(self, rows: Any) -> jax.Array:
        """The window's rows of a block, `[rows, 128]`."""
        return rows[self._rows, :]

    def write(self, rows: Any, new: jax.Array) -> None:
        """Writes those that are inside."""
        rows[self._rows, :] = jnp.where(self.inside, new.astype(rows.dtype), rows[self._rows, :])

    def weights(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """Softmax of a head's logits, float32 `[rows, rows]`."""
        return softmax(jnp.where(self._together, product(query, key, transpose_right=True) + self._bias, APART))

    def kept(self, head: jax.Array) -> jax.Array | None:
        """Which weights of a head (its number among all) are kept; None where all are."""
        if not self._sizes.rate:
            return None
        place = self._place + (head * self._sizes.length**2).astype(jnp.uint32)
        return are_kept(random_bits(self._seeds, place), self._sizes.rate)

    def dropped(self, weights: jax.Array, kept: jax.Array | None) -> jax.Array:
        """What dropout makes of weights, or of a gradient to its results."""
        return weights if kept is None else jnp.where(kept, weights * (1.0 / (1.0 - self._sizes.rate)), 0.0)
