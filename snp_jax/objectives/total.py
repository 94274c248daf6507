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


def nan_if_empty(term: SumCount) -> SumCount:
    """The same term, whose mean is NaN where nothing was counted (the authors' release; see `train/compat.py`)."""
    total, count = term
    return jnp.where(count > 0, total, jnp.nan), count


def total_loss(terms: Mapping[str, SumCount], weights: Mapping[str, float]) -> jax.Array:
    """Weighted sum of the means of `terms`. Each term must have a weight; a missing one is a KeyError."""
    return sum((weights[name] * mean(term) for name, term in terms.items()), jnp.float32(0.0))
