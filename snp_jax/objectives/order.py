"""Frame-order modelling (FOM, SNP-S3 section III-B): which clips are moved, and what is to be told. Pure functions."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from snp_jax.objectives.masking import IGNORE


class ClipOrder(NamedTuple):
    """A shuffle of the clips of B videos.

    Attributes:
        order: int32 `[B, N]`, where each clip goes.
        target: int32 `[B, N]`, the clip that is now at each position; `IGNORE` at positions that were not shuffled.
    """

    order: jax.Array
    target: jax.Array


def draw_order(key: jax.Array, clip_mask: jax.Array, *, ratio: float) -> ClipOrder:
    """Chooses each real clip with probability `ratio` (two of a video at least) and shuffles the chosen ones among themselves.

    Args:
        clip_mask: bool `[B, N]`. A video with a single real clip keeps its order and has no targets.
    """
    choose, shuffle = jax.random.split(key)
    videos, clips = clip_mask.shape
    draw = jnp.where(clip_mask, jax.random.uniform(choose, clip_mask.shape), 2.0)
    rank = jnp.argsort(jnp.argsort(draw, axis=1, stable=True), axis=1, stable=True)
    chosen = clip_mask & ((draw < ratio) | (rank < 2)) & (clip_mask.sum(axis=1, keepdims=True) > 1)
    # Chosen clips first: in their order, and in a random one. The others follow in their order both times.
    source = jnp.argsort(~chosen, axis=1, stable=True)
    goal = jnp.argsort(jnp.where(chosen, jax.random.uniform(shuffle, chosen.shape), 2.0), axis=1, stable=True)
    row = jnp.arange(videos)[:, None]
    order = jnp.zeros((videos, clips), jnp.int32).at[row, source].set(goal.astype(jnp.int32))
    return ClipOrder(order, targets_of(order, chosen))


def targets_of(order: jax.Array, chosen: jax.Array) -> jax.Array:
    """`ClipOrder.target` of an order int32 `[B, N]` whose chosen clips (bool `[B, N]`) are to be told."""
    row = jnp.arange(order.shape[0])[:, None]
    index = jnp.broadcast_to(jnp.arange(order.shape[1], dtype=jnp.int32), order.shape)
    return jnp.full(order.shape, IGNORE, jnp.int32).at[row, order].set(jnp.where(chosen, index, IGNORE))


def reorder(clips: jax.Array, order: jax.Array) -> jax.Array:
    """Moves clip i of `[B, N, ...]` to position `order[b, i]`."""
    return jnp.zeros_like(clips).at[jnp.arange(clips.shape[0])[:, None], order].set(clips)
