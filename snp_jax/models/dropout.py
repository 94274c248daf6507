"""Dropout and stochastic depth, drawn so that neither the split of a batch over devices nor packing changes what is dropped.

Each row of the batch has a seed, derived from the key and the row's number by JAX's generator; each of its elements is drawn by
a hash of that seed and of the element's place in the row. JAX's own generator, once for each element, would take a seventh of a
BERT layer on a TPU (`docs/performance.md`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from snp_jax.models.shard import row_keys

_rows: ContextVar[jax.Array | None] = ContextVar("rows", default=None)


@contextlib.contextmanager
def numbered_rows(rows: jax.Array | None) -> Iterator[None]:
    """Inside, dropout draws for the rows of its input by these numbers (uint32 `[R]`); None = 0, 1, 2, ..."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def row_seeds(key: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two seeds, uint32 `[R]`, for each of the numbered rows (uint32 `[R]`)."""
    seeds = jax.random.key_data(row_keys(key, rows))
    return seeds[:, 0], seeds[:, -1]


def own_rows(count: int) -> tuple[jax.Array, jax.Array]:
    """The number of the row that each of `count` leading entries belongs to, and its place there, uint32 `[count]`."""
    numbers = _rows.get()
    numbers = jnp.arange(count, dtype=jnp.uint32) if numbers is None else numbers
    each = count // numbers.shape[0]
    return jnp.repeat(numbers, each), jnp.tile(jnp.arange(each, dtype=jnp.uint32), numbers.shape[0])


def random_bits(seeds: tuple[jax.Array, jax.Array], place: jax.Array) -> jax.Array:
    """32 random bits for each place, all uint32 and broadcast to each other.

    The hash of integers by C. Wellons (hash-prospector, "lowbias32") over seed + place, with the second seed mixed in half way,
    so that rows whose first seeds are close do not repeat each other shifted.
    """
    first, second = seeds
    x = place + first
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = x ^ second
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def are_kept(bits: jax.Array, rate: float | jax.Array) -> jax.Array:
    """True with probability 1 - `rate`, for random bits."""
    return bits >= jnp.asarray(rate * 2.0**32, jnp.uint32)


def draw_kept(
    key: jax.Array, rate: float | jax.Array, shape: tuple[int, ...], tokens: tuple[jax.Array, jax.Array] | None = None
) -> jax.Array:
    """Bool of `shape`, True with probability 1 - rate. What is drawn for a row depends on its number alone.

    A leading axis of m * R entries, where R rows are numbered, has m of each row. One of `tokens` comes with rows and places,
    int32 `[N]`; what is drawn for a token is what would be drawn for it in `[R, positions, ...]`.
    """
    if tokens is None:
        row, place = own_rows(shape[0])
    else:
        entry, position = tokens
        numbers = _rows.get()
        row, place = entry.astype(jnp.uint32) if numbers is None else numbers[entry], position.astype(jnp.uint32)
    place = _column(place * np.uint32(math.prod(shape[1:])), shape)
    for axis in range(1, len(shape)):
        place = place + lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(math.prod(shape[axis + 1 :]))
    first, second = (_column(seed, shape) for seed in row_seeds(key, row))
    return are_kept(random_bits((first, second), place), rate)


def _column(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return x.reshape(-1, *[1] * (len(shape) - 1))


class Dropout(nn.Module):
    """Dropout whose draws do not depend on how the batch is split over devices; see `numbered_rows`."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool, tokens: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
        """Drops elements of x, whose leading axis is rows, or `tokens` with their rows and positions."""
        if deterministic or self.rate == 0.0:
            return x
        keep = draw_kept(self.make_rng("dropout"), self.rate, x.shape, tokens)
        return jnp.where(keep, x / (1.0 - self.rate), 0)

    def seeds(self, count: int) -> tuple[jax.Array, jax.Array]:
        """`row_seeds` of `count` whole rows, for code that drops what `__call__` would."""
        rows, _ = own_rows(count)
        numbers = _rows.get()
        if numbers is not None and numbers.shape != rows.shape:
            raise ValueError(f"{count} entries are not the {numbers.shape[0]} numbered rows: parts of rows have no seeds")
        return row_seeds(self.make_rng("dropout"), rows)


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole rows of the first axis and scales the kept ones up.

    Draws as `Dropout` does; kept rows are divided by 1 - rate. In a loop over layers the rate is an array.
    """

    rate: float | jax.Array

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        if deterministic or (isinstance(self.rate, float) and self.rate == 0.0):
            return x
        keep = draw_kept(self.make_rng("dropout"), self.rate, (x.shape[0],) + (1,) * (x.ndim - 1))
        return jnp.where(keep, x / jnp.asarray(1.0 - self.rate, x.dtype), 0)
