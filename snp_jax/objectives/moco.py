"""Momentum contrast for stage 1 of GVTM: InfoNCE against queues of keys, and the queues. Pure functions of arrays.

He et al. 2020, in both directions between texts and clips. What computes the keys, and where the queues live between steps, is
`snp_jax/train/momentum.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from snp_jax.objectives.matching import EXCLUDED


def momentum_update(keys: Any, queries: Any, momentum: float) -> Any:
    """Moves a tree of key weights towards the query weights: m * key + (1 - m) * query."""
    return jax.tree.map(lambda key, query: momentum * key + (1.0 - momentum) * query, keys, queries)


def info_nce(
    text: jax.Array,
    clips: jax.Array,
    text_keys: jax.Array,
    clip_keys: jax.Array,
    text_queue: jax.Array,
    clip_queue: jax.Array,
    clip_mask: jax.Array,
    valid: jax.Array,
    temperature: float,
) -> tuple[jax.Array, jax.Array]:
    """The mean of two losses: each clip against its text's key and the text queue, each text against its clips' keys and the
    clip queue (all N clips of the video are positives). Other pairs of the batch are no negatives.

    Args:
        text, text_keys: unit-norm features `[B, D]` of queries and keys.
        clips, clip_keys: unit-norm features `[B, N, D]`.
        text_queue, clip_queue: unit-norm keys of earlier batches, `[K, D]`.
        clip_mask: bool `[B, N]`.
        valid: bool `[B]`.

    Returns:
        (sum of losses, number of valid pairs).
    """

    def scores(pattern: str, queries: jax.Array, keys: jax.Array) -> jax.Array:
        exact = {"precision": jax.lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}
        return jnp.einsum(pattern, queries, jax.lax.stop_gradient(keys), **exact) / temperature

    own_text = scores("bnd,bd->bn", clips, text_keys)
    other_texts = jax.nn.logsumexp(scores("bnd,kd->bnk", clips, text_queue), axis=-1)
    per_clip = jnp.where(clip_mask, jnp.logaddexp(own_text, other_texts) - own_text, 0.0)
    from_video = per_clip.sum(axis=1) / jnp.maximum(clip_mask.sum(axis=1), 1)

    own_clips = jnp.where(clip_mask, scores("bd,bnd->bn", text, clip_keys), EXCLUDED)
    positive = jax.nn.logsumexp(own_clips, axis=1)
    other_clips = jax.nn.logsumexp(scores("bd,kd->bk", text, clip_queue), axis=-1)
    from_text = jnp.logaddexp(positive, other_clips) - positive

    losses = jnp.where(valid, (from_video + from_text) / 2.0, 0.0)
    return losses.sum(), valid.sum().astype(jnp.float32)


def enqueue(queue: jax.Array, pointer: jax.Array, rows: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Writes the real rows over the oldest entries, from the end on to the beginning of the queue.

    Args:
        queue: `[K, D]`.
        pointer: int32 scalar, position of the oldest entry.
        rows: `[M, D]`, M <= K.
        real: bool `[M]`; other rows are left out.

    Returns:
        The new queue and pointer.
    """
    length = queue.shape[0]
    place = (pointer + jnp.cumsum(real) - 1) % length
    queue = queue.at[jnp.where(real, place, length)].set(rows, mode="drop")
    return queue, ((pointer + real.sum()) % length).astype(jnp.int32)


def enqueue_clamped(queue: jax.Array, pointer: jax.Array, rows: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`enqueue` as the authors' release does it.

    A batch that would pass the end is moved back to end there, so that it overwrites newer entries, and the pointer goes to 0.
    All rows are written, real or not.
    """
    length, count = queue.shape[0], rows.shape[0]
    end = jnp.minimum(pointer + count, length)
    queue = jax.lax.dynamic_update_slice_in_dim(queue, rows, end - count, axis=0)
    return queue, (end % length).astype(jnp.int32)
