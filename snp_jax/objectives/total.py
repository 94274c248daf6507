"""How the terms become one loss: sum over count, weighted, added (SNP-S3 section III-B; all weights 1 there)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

SumCount = tuple[jax.Array, jax.Array]


def mean(term: SumCount) -> jax.Array:
    """sum / count; zero where nothing was counted."""
    total, count = term
    return total / jnp.maximum(count, 1.0)


def nan_if_empty(term: SumCount, counted: jax.Array) -> SumCount:
    """The same term, NaN where nothing was counted in the whole batch (the authors' release; see `train/compat.py`)."""
    total, count = term
    return jnp.where(counted > 0, total, jnp.nan), count


def total_loss(
    terms: Mapping[str, SumCount], weights: Mapping[str, float], counts: Mapping[str, jax.Array] | None = None
) -> jax.Array:
    """Weighted sum of the means of `terms`. Each term must have a weight; a missing one is a KeyError.

    Args:
        counts: of the whole batch, where `terms` are those of a part of it: then the totals of all parts add up to the batch's.
    """
    counts = {name: count for name, (_, count) in terms.items()} if counts is None else counts
    return sum((weights[name] * mean((total, counts[name])) for name, (total, _) in terms.items()), jnp.float32(0.0))
