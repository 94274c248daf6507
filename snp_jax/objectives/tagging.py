"""Tagging: which words of its caption a video shows. Pure functions of arrays (Joulin et al. 2016, arXiv 1511.02251)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from snp_jax.objectives.total import SumCount


def caption_tags(ids: jax.Array, wanted: jax.Array, vocab_size: int) -> jax.Array:
    """Bool `[B, V]`: the words of each caption, `ids` int32 `[B, L]`, at the positions that are `wanted`, bool `[B, L]`."""
    rows = jnp.arange(ids.shape[0])[:, None]
    return jnp.zeros((ids.shape[0], vocab_size), bool).at[rows, ids].max(wanted)


def tag_loss(logits: jax.Array, tags: jax.Array, valid: jax.Array) -> dict[str, SumCount]:
    """Multi-label logistic loss: cross entropy between softmax of the scores and the uniform distribution over the tags.

    The entropy of that distribution is taken off, so 0 is perfect (the Kullback-Leibler divergence). A video without tags, or
    not valid, does not count.

    Args:
        logits: float32 `[B, V]`.
        tags: bool `[B, V]`.
        valid: bool `[B]`.

    Returns:
        `loss`, and `precision`: the share of the n highest-scoring words that are among a video's n tags.
    """
    number = tags.sum(axis=1)
    counted = valid & (number > 0)
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    several = jnp.maximum(number, 1).astype(jnp.float32)
    divergence = -jnp.where(tags, log_probability, 0.0).sum(axis=1) / several - jnp.log(several)
    rank = jnp.argsort(jnp.argsort(-logits, axis=1), axis=1)
    hits = (tags & (rank < number[:, None])).sum(axis=1) / several
    count = counted.sum().astype(jnp.float32)
    return {
        "loss": (jnp.where(counted, divergence, 0.0).sum(), count),
        "precision": (jnp.where(counted, hits, 0.0).sum(), count),
    }
