"""Global vision-text matching as a task computes it: stage-1 similarities, and the cross branch on all or on chosen pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snp_jax.models.network import Network
from snp_jax.models.snp import Clips, CrossInputs, Text
from snp_jax.objectives import matching, mining
from snp_jax.objectives.matching import EXCLUDED
from snp_jax.objectives.total import SumCount
from snp_jax.train.choices import MiningOptions
from snp_jax.train.compat import Compat

Scorer = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class MatchingOptions:
    """How GVTM compares a batch.

    Attributes:
        anchor: "middle" (published) or "bag"; see `matching.mil_nce`.
        temperature: divides stage-1 similarities (1 = published).
        negatives: stage-2 negatives per text and per video; 0 = all pairs (published).
        mining: how they are chosen: "sample", "nearest" or "top_k"; see `choices.MiningOptions`.
        draw_temperature: softness of "sample", in units of cosine similarity.
        reweight: "none", or "median" (`mining.median_weights`) for the pairs of stage 2.
        local_groups: stage 2 on all pairs compares inside each of this many equal parts of the batch (1 = the whole batch; the
            release: one a device).
        chunk: pairs per cross-branch pass; 0 = all at once.
    """

    anchor: str
    temperature: float
    negatives: int
    mining: str
    draw_temperature: float
    reweight: str
    local_groups: int
    chunk: int

    @property
    def mining_options(self) -> MiningOptions:
        """What `choices` needs to know."""
        return MiningOptions(self.mining, self.negatives, self.draw_temperature / self.temperature)


class Pairs(NamedTuple):
    """A batch of B pairs as the network encoded it: both branches, the embedded inputs of the cross branch, `valid` `[B]`.

    `pooled` `[B, D]` is the cross branch's output for each caption with its own video, where a step has computed it anyway.
    """

    text: Text
    clips: Clips
    captions: CrossInputs
    videos: CrossInputs
    valid: jax.Array
    pooled: jax.Array | None = None


class Computed(NamedTuple):
    """What a part of a step computed: loss terms, metrics, and named intermediates (dropped by XLA where nobody reads them)."""

    terms: dict[str, SumCount]
    metrics: dict[str, SumCount]
    shown: dict[str, jax.Array]


def stage1_scores(text: Text, clips: Clips, temperature: float) -> jax.Array:
    """Stage-1 similarity of every text with every clip, float32 `[B_text, B_video, N]`."""
    return matching.text_clip_similarity(text.feature, clips.features) / temperature


def recall(scores: jax.Array, valid: jax.Array, compat: Compat) -> SumCount:
    """In-batch R@1 by the rule for ties that `compat` asks for."""
    return (matching.in_batch_recall_listed if compat.listed_ties else matching.in_batch_recall)(scores, valid)


def stage1(pairs: Pairs, options: MatchingOptions, compat: Compat) -> Computed:
    """L3: every text against every clip. Shows "similarity" `[B, B]`, pooled over clips."""
    similarity = stage1_scores(pairs.text, pairs.clips, options.temperature)
    pooled = matching.pool_clips(similarity, pairs.clips.mask)
    term = matching.mil_nce(similarity, pairs.valid, anchor=options.anchor)
    return Computed({"gvtm_stage1": term}, {"recall_stage1": recall(pooled, pairs.valid, compat)}, {"similarity": pooled})


def stage2(
    net: Network, pairs: Pairs, similarity: jax.Array, options: MatchingOptions, compat: Compat, choices: Any, key
) -> Computed:
    """L4: the cross branch on pairs. Shows "scores", `[groups, s, s]` where it compares whole matrices.

    Args:
        similarity: stage 1's, pooled, `[B_text, B_video]`.
        choices: see `choices.PairChoices`.
        key: of dropout, or None.
    """
    valid, size = pairs.valid, pairs.valid.shape[0] // options.local_groups
    weights = None
    if options.reweight == "median":
        weights = mining.median_weights(jnp.diagonal(similarity), valid)

    def score(texts: jax.Array, videos: jax.Array) -> jax.Array:
        return net.pair_scores(pairs.captions, pairs.videos, texts, videos, chunk=options.chunk, key=key)

    own = jnp.arange(valid.shape[0], dtype=jnp.int32)

    def of_columns(columns: jax.Array) -> jax.Array:
        """Scores of each text with the videos at `columns`, `[B, s]` both."""
        return score(jnp.repeat(own, columns.shape[1]), columns.reshape(-1)).reshape(columns.shape)

    known = None
    if pairs.pooled is not None:
        known = net.match(pairs.pooled, key=None if key is None else jax.random.fold_in(key, valid.shape[0]))
    if compat.mined_matrix and options.mining != "sample":
        columns = choices.columns(similarity, valid, size)
        return _matrices(of_columns(columns), columns, valid, weights, compat)
    if options.negatives == 0:
        columns = own[:, None] // size * size + jnp.arange(size, dtype=jnp.int32)
        return _matrices(_whole_rows(of_columns, columns, own, known), columns, valid, weights, compat)
    return _chosen(score, known, choices.negatives(similarity, valid), valid, weights)


def _whole_rows(of_columns: Callable, columns: jax.Array, own: jax.Array, known: jax.Array | None) -> jax.Array:
    """Scores of each text with the videos at `columns`, `[B, s]`; those with its own (column b % s) may be `known`, `[B]`."""
    size = columns.shape[1]
    if known is None or size == 1:
        return of_columns(columns) if known is None else known[:, None]
    place = (own % size)[:, None]  # the row is computed from the next column on, and turned back
    others = of_columns(jnp.take_along_axis(columns, (place + jnp.arange(1, size)) % size, axis=1))
    turned = jnp.concatenate([known[:, None], others], axis=1)
    return jnp.take_along_axis(turned, (jnp.arange(size) - place) % size, axis=1)


def _matrices(scores: jax.Array, columns: jax.Array, valid: jax.Array, weights: jax.Array | None, compat: Compat) -> Computed:
    """MIL-NCE on one square matrix per group: text b against videos `columns[b]` (int32 `[B, s]`), its own in column b % s."""
    size = columns.shape[1]
    scores = jnp.where(valid[columns], scores, EXCLUDED).reshape(-1, size, size)
    valid = valid.reshape(-1, size)
    weights = jnp.ones(valid.shape) if weights is None else weights.reshape(-1, size)
    losses = jax.vmap(lambda s, v, w: matching.mil_nce(s[..., None], v, weights=w))(scores, valid, weights)
    hits = jax.vmap(lambda s, v: recall(s, v, compat))(scores, valid)
    total = lambda term: tuple(part.sum() for part in term)  # noqa: E731
    return Computed({"gvtm_stage2": total(losses)}, {"recall_stage2": total(hits)}, {"scores": scores})


def _chosen(
    score: Scorer, known: jax.Array | None, negatives: mining.Negatives, valid: jax.Array, weights: jax.Array | None
) -> Computed:
    """The loss on k chosen negatives a text and a video; scores of the pairs themselves may be `known`, `[B]`."""
    pairs, count = negatives.videos.shape
    own = jnp.arange(pairs)
    repeated = jnp.repeat(own, count)
    texts = jnp.concatenate([own, repeated, negatives.texts.reshape(-1)])
    videos = jnp.concatenate([own, negatives.videos.reshape(-1), repeated])
    scores = score(texts, videos) if known is None else jnp.concatenate([known, score(texts[pairs:], videos[pairs:])])
    positive, other_videos, other_texts = jnp.split(scores, [pairs, pairs * (1 + count)])
    other_videos, other_texts = other_videos.reshape(pairs, count), other_texts.reshape(pairs, count)
    term = mining.sampled_nce(positive, other_videos, other_texts, negatives, valid, weights=weights)
    best = jnp.where(negatives.videos_mask, other_videos, -jnp.inf).max(axis=1)
    hits = ((positive > best) & valid).sum().astype(jnp.float32)
    return Computed({"gvtm_stage2": term}, {"beats_hard_negatives": (hits, valid.sum().astype(jnp.float32))}, {})
