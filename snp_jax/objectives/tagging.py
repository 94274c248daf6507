"""Tagging: which words of its caption a video shows. Pure functions of arrays (Joulin et al. 2016, arXiv 1511.02251)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from snp_jax.objectives.total import SumCount


def caption_tags(ids: jax.Array, wanted: jax.Array, vocab_size: int) -> jax.Array:
    """Bool `[B, V]`: the words of each caption, `ids` int32 `[B, L]`, at the positions that are `wanted`, bool `[B, L]`."""
    rows = jnp.arange(ids.shape[0])[:, None]
    return jnp.zeros((ids.shape[0], vocab_size), bool).at[rows, ids].max(wanted)


def rarity(tags: jax.Array, valid: jax.Array, total: Callable[[Any], Any] = lambda x: x) -> jax.Array:
    """What each word weighs as a tag, float32 `[V]`: log((n + 1) / videos with the tag) of a batch of n videos.

    The inverse document frequency of text retrieval (Spärck Jones 1972), counted in the batch: what a caption says of nearly
    every video hardly counts beside what it says of this one. 0 for a word that no video has.

    Args:
        tags: bool `[B, V]`.
        valid: bool `[B]`, the videos that are counted.
        total: sums over the devices that hold the rest of the batch.
    """
    videos, having = total((valid.sum(), (tags & valid[:, None]).sum(axis=0)))
    return jnp.where(having > 0, jnp.log((videos + 1.0) / jnp.maximum(having, 1)), 0.0)


def tag_loss(logits: jax.Array, tags: jax.Array, valid: jax.Array, weight: jax.Array) -> dict[str, SumCount]:
    """Multi-label logistic loss: cross entropy between softmax of the scores and a video's tags, as probable as they weigh.

    The entropy of that distribution is taken off, so 0 is perfect (the Kullback-Leibler divergence). A video without tags, or
    not valid, does not count.

    Args:
        logits: float32 `[B, V]`.
        tags: bool `[B, V]`.
        valid: bool `[B]`.
        weight: float32 `[V]`, positive for every tag of a valid video; `rarity`, say.

    Returns:
        `loss`, and `precision`: the share of the n highest-scoring words that are among a video's n tags.
    """
    number = tags.sum(axis=1)
    counted = valid & (number > 0)
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    weighed = jnp.where(tags, weight, 0.0)
    wanted = weighed / jnp.where(counted, weighed.sum(axis=1), 1.0)[:, None]
    divergence = (jax.scipy.special.xlogy(wanted, wanted) - wanted * log_probability).sum(axis=1)
    rank = jnp.argsort(jnp.argsort(-logits, axis=1), axis=1)
    hits = (tags & (rank < number[:, None])).sum(axis=1) / jnp.maximum(number, 1)
    count = counted.sum().astype(jnp.float32)
    return {
        "loss": (jnp.where(counted, divergence, 0.0).sum(), count),
        "precision": (jnp.where(counted, hits, 0.0).sum(), count),
    }
