"""MIL-NCE of the pairs that a program holds against the whole batch, in chunks that bound memory.

Pure functions of arrays. "Here" are the b pairs of one program, "all" the B pairs of the batch; with one program both are
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from snp_jax.objectives import matching

Similarity = Callable[[jax.Array, jax.Array], jax.Array]
"""Text-side features `[t, ...]` and clip features `[v, N, D]` -> float32 `[t, v, N]`."""


class Sides(NamedTuple):
    """Features of some pairs: `texts` `[b, ...]`, `clips` `[b, N, D]`, `mask` bool `[b, N]` of the clips."""

    texts: jax.Array
    clips: jax.Array
    mask: jax.Array


def in_chunks(function: Callable[..., jax.Array], chunk: int, *arrays: jax.Array) -> jax.Array:
    """`function(*arrays)` of arrays with the same leading axis b, computed `chunk` rows at a time.

    With less than b rows a chunk, nothing inside a chunk is kept for the backward pass. 0 = all at once.
    """
    count = arrays[0].shape[0]
    if not chunk or chunk >= count:
        return function(*arrays)
    chunks = -(-count // chunk)

    def cut(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, chunks * chunk - count), *((0, 0),) * (x.ndim - 1)))
        return padded.reshape(chunks, chunk, *x.shape[1:])

    results = jax.lax.map(jax.checkpoint(lambda rows: function(*rows)), tuple(cut(x) for x in arrays))
    return results.reshape(chunks * chunk, *results.shape[2:])[:count]


def contrast(
    similarity: Similarity, here: Sides, everyone: Sides, own: jax.Array, valid: jax.Array, *, anchor: str, chunk: int
) -> jax.Array:
    """Loss of each pair that is here, float32 `[b]`: its text against all clips, and its clips against all texts.

    Of the similarities, `chunk` x B x N are in memory at a time, twice; the whole matrix is never.

    Args:
        here: the pairs whose losses are computed.
        everyone: all pairs.
        own: int32 `[b]`, where the pairs stand among all.
        valid: bool `[B]`.
        anchor: see `matching.mil_nce`.
        chunk: pairs at a time, 0 = all.
    """

    def losses(texts: jax.Array, clips: jax.Array, mask: jax.Array, own: jax.Array) -> jax.Array:
        clips, mask = (matching.anchor_clips(x, anchor, axis=1) for x in (clips, mask))
        rows = matching.real_clips(similarity(texts, everyone.clips), everyone.mask)  # [c, B, N]
        columns = matching.real_clips(similarity(everyone.texts, clips), mask)  # [B, c, 1 or N]
        return matching.pair_losses(rows, columns, own, valid, anchor=anchor)

    return in_chunks(losses, chunk, here.texts, here.clips, here.mask, own)


def pooled_rows(similarity: Similarity, texts: jax.Array, everyone: Sides, *, chunk: int) -> jax.Array:
    """Video-level similarity of texts `[b, ...]` with all videos, float32 `[b, B]`; no gradient flows through it."""

    def rows(texts: jax.Array) -> jax.Array:
        return matching.pool_clips(similarity(texts, everyone.clips), everyone.mask)

    return jax.lax.stop_gradient(in_chunks(rows, chunk, texts))


def pooled_columns(similarity: Similarity, here: Sides, texts: jax.Array, *, chunk: int) -> jax.Array:
    """Video-level similarity of the videos that are here with all texts `[B, ...]`, float32 `[b, B]`; without gradient."""

    def rows(clips: jax.Array, mask: jax.Array) -> jax.Array:
        return matching.pool_clips(similarity(texts, clips), mask).T

    return jax.lax.stop_gradient(in_chunks(rows, chunk, here.clips, here.mask))
