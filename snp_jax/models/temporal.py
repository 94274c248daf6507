"""The temporal encoder over clip-level cross outputs, and the classifier of frame-order modelling (FOM).

SNP-S3 section III-A names it as optional; what is shuffled and what is predicted is `snp_jax/objectives/order.py`'s business.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from snp_jax.models import bert, layers

HEAD_EPSILON = 1e-5
"""LayerNorm epsilon of the order classifier."""


@dataclasses.dataclass(frozen=True)
class TemporalConfig:
    """Sizes of the temporal encoder; width, heads and dropout are BERT's.

    Attributes:
        layers: BERT layers.
        max_positions: rows of its own position table; one more than the clips of a video are used.
        max_clips: classes of the order classifier.
    """

    layers: int = 3
    max_positions: int = 512
    max_clips: int = 16


class TemporalEncoder(nn.Module):
    """A learnt CLS before the clips, own position and segment embeddings, BERT layers.

    `config` carries the temporal encoder's own `layers` and `max_positions`.
    """

    config: bert.BertConfig
    dtype: Any = jnp.float32

    def setup(self):
        self.cls = self.param("cls", nn.initializers.normal(1.0), (1, 1, self.config.width))
        self.embeddings = bert.PositionEmbeddings(self.config, self.dtype)
        self.encoder = bert.Encoder(self.config, self.dtype)

    def __call__(self, clips: jax.Array, mask: jax.Array, *, deterministic: bool) -> jax.Array:
        """Clip vectors `[B, N, D]` and their mask, bool `[B, N]` -> `[B, N+1, D]`, CLS first."""
        first = jnp.broadcast_to(self.cls.astype(clips.dtype), (clips.shape[0], 1, clips.shape[2]))
        embedded = self.embeddings(jnp.concatenate([first, clips], axis=1), 0, deterministic=deterministic)
        mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        return self.encoder(embedded, mask, deterministic=deterministic)[0]


class OrderHead(nn.Module):
    """Linear D -> 2D, gelu, LayerNorm, linear -> `classes`: `[..., D]` -> float32 `[..., classes]`."""

    classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.gelu(nn.Dense(2 * x.shape[-1], dtype=self.dtype, name="fc1")(x))
        x = layers.LayerNorm(HEAD_EPSILON, self.dtype, name="norm")(x)
        return nn.Dense(self.classes, dtype=self.dtype, name="fc2")(x).astype(jnp.float32)
