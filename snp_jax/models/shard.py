"""Which rows of the global batch a program holds, and how it reaches the others.

A training step runs as one program for the whole batch, or as one program a device that holds a part of it (`jax.shard_map`).
Random draws and contrastive terms must not tell the two apart: what is drawn for a row depends on the row's number in the
batch, and what compares rows gathers them first.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

PAIR_STRIDE = 1 << 16
"""Numbers of pairs are `row * PAIR_STRIDE + row`, in uint32: different for batches of up to 65,536 rows."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """The rows of one program. The default holds the whole batch.

    Attributes:
        axes: mesh axes that the batch is split over by `shard_map`; empty where all rows are here.
        parts: microbatches a step; row r of the step's batch is in microbatch r % parts.
        part: number of this microbatch, int or int32 scalar.
    """

    axes: tuple[str, ...] = ()
    parts: int = 1
    part: Any = 0

    def places(self, count: int) -> jax.Array:
        """Where the `count` rows held here stand in the results of `gather`: int32 `[count]`."""
        first = jax.lax.axis_index(self.axes) * count if self.axes else 0
        return first + jnp.arange(count, dtype=jnp.int32)

    def numbers(self, places: jax.Array) -> jax.Array:
        """Numbers in the step's whole batch of rows that stand at `places`, uint32; what random draws depend on."""
        return (places * self.parts + self.part).astype(jnp.uint32)

    def rows(self, count: int) -> jax.Array:
        """`numbers` of the rows held here, uint32 `[count]`."""
        return self.numbers(self.places(count))

    def gather(self, tree: Any) -> Any:
        """The rows of all programs, of arrays whose leading axis is rows."""
        if not self.axes:
            return tree
        return jax.tree.map(lambda x: _gather_rows(x, self.axes), tree)

    def own(self, tree: Any) -> Any:
        """The rows held here, of gathered arrays."""
        if not self.axes:
            return tree

        def cut(x: jax.Array) -> jax.Array:
            count = x.shape[0] // jax.lax.axis_size(self.axes)
            return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(self.axes) * count, count)

        return jax.tree.map(cut, tree)

    def total(self, tree: Any) -> Any:
        """Sums over all programs; not to be differentiated."""
        return jax.lax.psum(jax.lax.stop_gradient(tree), self.axes) if self.axes else tree


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather_rows(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Gathers in the dtype that rows have; their gradients are added up in float32."""
    return jax.lax.all_gather(x, axes, tiled=True)


def _gather_forward(x: jax.Array, axes: tuple[str, ...]) -> tuple[jax.Array, jax.Array]:
    return _gather_rows(x, axes), jnp.zeros((), x.dtype)  # residuals are arrays: this one carries the dtype


def _gather_backward(axes: tuple[str, ...], like: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    if not jnp.issubdtype(like.dtype, jnp.floating):
        return (None,)
    return (jax.lax.psum_scatter(gradient.astype(jnp.float32), axes, tiled=True).astype(like.dtype),)


_gather_rows.defvjp(_gather_forward, _gather_backward)


def row_keys(key: jax.Array, rows: jax.Array) -> jax.Array:
    """A key for each row, from its number (uint32 `[R]`)."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


def pair_numbers(texts: jax.Array, videos: jax.Array) -> jax.Array:
    """Numbers of (text, video) pairs from those of their rows, uint32."""
    return texts * jnp.uint32(PAIR_STRIDE) + videos
