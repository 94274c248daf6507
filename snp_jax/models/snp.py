"""The shared network of SNP-S3: one BERT as text encoder and as cross-modal encoder over clip tokens; and its P3E baseline.

Dong et al., IEEE TCSVT 2023, section III-A. This file wires a visual encoder, the shared BERT and the heads; which parts a step
uses is decided by `snp_jax/train/tasks.py`, what is optimised by `snp_jax/objectives`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from snp_jax.models import bert
from snp_jax.models.dropout import Dropout
from snp_jax.models.packing import Packing
from snp_jax.models.temporal import OrderHead, TemporalConfig, TemporalEncoder
from snp_jax.models.visual import VisualConfig
from snp_jax.models.visual_branch import VisualBranch, mean_cells


@dataclasses.dataclass(frozen=True)
class SNPConfig:
    """The network.

    Attributes:
        bert: sizes of the shared BERT; its width is the model's D.
        visual: the visual encoder: a `PVTConfig`, `ResNetConfig` or `VideoSwinConfig`.
        num_answers: classes of the answer head; 0 = no such head.
        cross_layers: 0 = the cross branch uses the text branch's embeddings and encoder (SNP); otherwise it has embeddings of
            its own and an encoder of that many layers (the P3E baseline, Table II: 3).
        itm: whether there is an image-text-matching head.
        temporal: the temporal encoder with its order classifier, or None.
        sep_id: vocabulary id of [SEP], which closes the clip tokens in the cross branch.
        head_dropout: before the matching head.
    """

    bert: bert.BertConfig
    visual: VisualConfig
    sep_id: int
    num_answers: int = 0
    head_dropout: float = 0.1
    cross_layers: int = 0
    itm: bool = False
    temporal: TemporalConfig | None = None


class Clips(NamedTuple):
    """The visual branch's output.

    Attributes:
        tokens: `[B, N, D]`, mean over a clip's frames and real grid cells; input of the cross branch.
        features: float32 `[B, N, D]`, unit norm; used by contrastive losses.
        mask: bool `[B, N]`, True where the clip has at least one real frame.
    """

    tokens: jax.Array
    features: jax.Array
    mask: jax.Array


class Text(NamedTuple):
    """The text branch's output.

    Attributes:
        embedded: `[B, L, D]` output of the embedding layer.
        sequence: `[B, L, D]` last hidden states.
        feature: float32 `[B, D]`, unit norm.
        importance: float32 `[B, L]`, attention received by each token (no gradient), or None where nobody asked for it.
    """

    embedded: jax.Array
    sequence: jax.Array
    feature: jax.Array
    importance: jax.Array | None


class Cross(NamedTuple):
    """The cross branch's output: `sequence [B, L, D]` at the caption, `clips [B, N, D]`, `pooled [B, D]`."""

    sequence: jax.Array
    clips: jax.Array
    pooled: jax.Array


class CrossInputs(NamedTuple):
    """One modality's embedded part of a cross-branch sequence: `embedded [B, S, D]`, `mask` bool `[B, S]`."""

    embedded: jax.Array
    mask: jax.Array


def unit_norm(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """L2-normalises the last axis in float32; a zero vector stays zero, with zero gradient."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, epsilon**2))


class SNP(VisualBranch):
    """Visual encoder, ONE BERT used twice (P3E: and a second one), and the heads.

    Use through `apply(..., method="encode_text")` and friends.
    """

    config: SNPConfig
    dtype: Any = jnp.float32

    def setup(self):
        config, width = self.config, self.config.bert.width
        self.set_up_visual(config.visual, width)
        self.clip_fc1 = nn.Dense(width, dtype=self.dtype)
        self.clip_fc2 = nn.Dense(width, dtype=self.dtype)
        self.embeddings = bert.Embeddings(config.bert, self.dtype)
        self.encoder = bert.Encoder(config.bert, self.dtype)
        if config.cross_layers:
            own = dataclasses.replace(config.bert, layers=config.cross_layers)
            self.cross_embeddings = bert.Embeddings(own, self.dtype)
            self.cross_encoder = bert.Encoder(own, self.dtype)
        self.pooler = bert.Pooler(config.bert, self.dtype)
        self.cross_pooler = bert.Pooler(config.bert, self.dtype)
        self.text_words = bert.MaskedWordHead(config.bert, self.dtype)
        self.cross_words = bert.MaskedWordHead(config.bert, self.dtype)
        self.match_fc1 = nn.Dense(2 * width, dtype=self.dtype)
        self.match_fc2 = nn.Dense(1, dtype=self.dtype)
        self.head_dropout = Dropout(config.head_dropout)
        if config.num_answers:
            self.answer = nn.Dense(config.num_answers, dtype=self.dtype)
        if config.itm:
            self.itm = nn.Dense(2, dtype=self.dtype)
        if (temporal := config.temporal) is not None:
            sizes = dataclasses.replace(config.bert, layers=temporal.layers, max_positions=temporal.max_positions)
            self.temporal = TemporalEncoder(sizes, self.dtype)
            self.order = OrderHead(temporal.max_clips, self.dtype)

    def _cross_embeddings(self) -> bert.Embeddings:
        return self.cross_embeddings if self.config.cross_layers else self.embeddings

    # ------------------------------------------------------------------ branches
    def encode_video(
        self,
        frames: jax.Array,
        frame_mask: jax.Array,
        *,
        num_clips: int,
        pixel_mask: jax.Array | None = None,
        deterministic: bool,
    ) -> Clips:
        """Frames to clip tokens and clip features. Arguments as in `encode_cells`."""
        cells, real = self.encode_cells(
            frames, frame_mask, num_clips=num_clips, pixel_mask=pixel_mask, deterministic=deterministic
        )
        tokens = mean_cells(cells, real).astype(self.dtype)
        features = unit_norm(self.clip_fc2(jax.nn.relu(self.clip_fc1(tokens))))
        return Clips(tokens, features, real.any(axis=(2, 3)))

    def encode_text(
        self, ids: jax.Array, mask: jax.Array, *, packing: Packing | None = None, importance: bool = False, deterministic: bool
    ) -> Text:
        """The text branch: caption ids int32 `[B, L]`, mask bool `[B, L]`; optionally the `packing` of the real tokens.

        The `importance` of tokens is there where it is asked for; attention is no kernel then.
        """
        embedded = self.embeddings(self.embeddings.words(ids), 0, deterministic=deterministic)
        sequence, received = self.encoder(embedded, mask, packing=packing, deterministic=deterministic, importance=importance)
        feature = unit_norm(self.pooler(sequence))
        return Text(embedded, sequence, feature, jax.lax.stop_gradient(received))

    def embed_caption(self, ids: jax.Array, mask: jax.Array, *, deterministic: bool) -> CrossInputs:
        """The caption's part of a cross-branch sequence (segment 0)."""
        embeddings = self._cross_embeddings()
        return CrossInputs(embeddings(embeddings.words(ids), 0, deterministic=deterministic), mask)

    def embed_clips(self, tokens: jax.Array, mask: jax.Array, *, deterministic: bool) -> CrossInputs:
        """The video's part: N clip tokens and [SEP] through the same embedding layer (segment 1, positions from 0)."""
        embeddings = self._cross_embeddings()
        separator = embeddings.words(jnp.full((tokens.shape[0], 1), self.config.sep_id, jnp.int32))
        vectors = jnp.concatenate([tokens, separator.astype(tokens.dtype)], axis=1)  # [B, N+1, D]
        mask = jnp.pad(mask, ((0, 0), (0, 1)), constant_values=True)
        return CrossInputs(embeddings(vectors, 1, deterministic=deterministic), mask)

    def _encode_pairs(self, caption: CrossInputs, clips: CrossInputs, **options: Any) -> jax.Array:
        x = jnp.concatenate([caption.embedded, clips.embedded], axis=1)  # [B, L+N+1, D]
        mask = jnp.concatenate([caption.mask, clips.mask], axis=1)
        encoder = self.cross_encoder if self.config.cross_layers else self.encoder
        return encoder(x, mask, **options)[0]

    def encode_cross(
        self, caption: CrossInputs, clips: CrossInputs, *, packing: Packing | None = None, deterministic: bool
    ) -> Cross:
        """The cross branch on pairs: row i is caption i with video i; optionally the `packing` of both together."""
        sequence = self._encode_pairs(caption, clips, packing=packing, deterministic=deterministic)
        length = caption.mask.shape[1]
        return Cross(sequence[:, :length], sequence[:, length:-1], self.cross_pooler(sequence))

    def pool_cross(
        self, caption: CrossInputs, clips: CrossInputs, *, packing: Packing | None = None, deterministic: bool
    ) -> jax.Array:
        """`encode_cross(...).pooled`, `[B, D]`, without the last layer's work on what is not pooled."""
        return self.cross_pooler(
            self._encode_pairs(caption, clips, packing=packing, deterministic=deterministic, first_only=True)
        )

    # ------------------------------------------------------------------ heads
    def match(self, pooled: jax.Array, *, deterministic: bool) -> jax.Array:
        """Matching score of cross-branch outputs: `[B, D]` -> float32 `[B]`."""
        pooled = self.head_dropout(pooled, deterministic)
        return self.match_fc2(jax.nn.relu(self.match_fc1(pooled)))[..., 0].astype(jnp.float32)

    def text_word_logits(self, sequence: jax.Array) -> jax.Array:
        """Masked-word scores of the text branch: `[B, L, D]` -> float32 `[B, L, V]`."""
        return self.text_words(sequence, self.embeddings)

    def cross_word_logits(self, sequence: jax.Array) -> jax.Array:
        """Masked-word scores of the cross branch: `[B, L, D]` -> float32 `[B, L, V]`."""
        return self.cross_words(sequence, self._cross_embeddings())

    def answer_logits(self, pooled: jax.Array) -> jax.Array:
        """Answer scores: cross pooled `[B, D]` -> float32 `[B, num_answers]`."""
        return self.answer(pooled).astype(jnp.float32)

    def itm_logits(self, pooled: jax.Array) -> jax.Array:
        """Image-text matching: cross pooled `[B, D]` -> float32 `[B, 2]`; class 1 = the two belong together."""
        return self.itm(pooled).astype(jnp.float32)

    def encode_order(self, clips: jax.Array, mask: jax.Array, *, deterministic: bool) -> jax.Array:
        """The temporal encoder on clip-level cross outputs `[B, N, D]` with mask `[B, N]` -> `[B, N+1, D]`, CLS first."""
        return self.temporal(clips, mask, deterministic=deterministic)

    def order_logits(self, sequence: jax.Array) -> jax.Array:
        """Frame-order scores of the temporal encoder's output: `[B, N+1, D]` -> float32 `[B, N, max_clips]`."""
        return self.order(sequence[:, 1:])

    def __call__(self, frames, frame_mask, ids, mask, *, num_clips: int) -> jax.Array:
        """Touches every parameter once; used for initialisation only. Returns the matching scores `[B]`."""
        clips = self.encode_video(frames, frame_mask, num_clips=num_clips, deterministic=True)
        text = self.encode_text(ids, mask, deterministic=True)
        caption = self.embed_caption(ids, mask, deterministic=True)
        cross = self.encode_cross(caption, self.embed_clips(clips.tokens, clips.mask, deterministic=True), deterministic=True)
        self.text_word_logits(text.sequence)
        self.cross_word_logits(cross.sequence)
        if self.config.num_answers:
            self.answer_logits(cross.pooled)
        if self.config.itm:
            self.itm_logits(cross.pooled)
        if self.config.temporal is not None:
            self.order_logits(self.encode_order(cross.clips, clips.mask, deterministic=True))
        return self.match(cross.pooled, deterministic=True)
