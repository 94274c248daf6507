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
    """A batch of B pairs as the network encoded it: both branches, the embedded inputs of the cross branch, `valid` `[B]`."""

    text: Text
    clips: Clips
    captions: CrossInputs
    videos: CrossInputs
    valid: jax.Array


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
    similarity = matching.real_clips(stage1_scores(pairs.text, pairs.clips, options.temperature), pairs.clips.mask)
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

    if compat.mined_matrix and options.mining != "sample":
        return _matrices(score, choices.columns(similarity, valid, size), valid, weights, compat)
    if options.negatives == 0:
        own = jnp.arange(valid.shape[0], dtype=jnp.int32)[:, None]
        return _matrices(score, own // size * size + jnp.arange(size, dtype=jnp.int32), valid, weights, compat)
    return _chosen(score, choices.negatives(similarity, valid), valid, weights)


def _matrices(score: Scorer, columns: jax.Array, valid: jax.Array, weights: jax.Array | None, compat: Compat) -> Computed:
    """MIL-NCE on one square matrix per group: text b against videos `columns[b]` (int32 `[B, s]`), its own in column b % s."""
    pairs, size = columns.shape
    rows = jnp.repeat(jnp.arange(pairs, dtype=jnp.int32), size)
    scores = score(rows, columns.reshape(-1)).reshape(pairs, size)
    scores = jnp.where(valid[columns], scores, EXCLUDED).reshape(-1, size, size)
    valid = valid.reshape(-1, size)
    weights = jnp.ones(valid.shape) if weights is None else weights.reshape(-1, size)
    losses = jax.vmap(lambda s, v, w: matching.mil_nce(s[..., None], v, weights=w))(scores, valid, weights)
    hits = jax.vmap(lambda s, v: recall(s, v, compat))(scores, valid)
    total = lambda term: tuple(part.sum() for part in term)  # noqa: E731
    return Computed({"gvtm_stage2": total(losses)}, {"recall_stage2": total(hits)}, {"scores": scores})


def _chosen(score: Scorer, negatives: mining.Negatives, valid: jax.Array, weights: jax.Array | None) -> Computed:
    """The loss on k chosen negatives a text and a video."""
    pairs, count = negatives.videos.shape
    own = jnp.arange(pairs)
    repeated = jnp.repeat(own, count)
    scores = score(
        jnp.concatenate([own, repeated, negatives.texts.reshape(-1)]),
        jnp.concatenate([own, negatives.videos.reshape(-1), repeated]),
    )
    positive, other_videos, other_texts = jnp.split(scores, [pairs, pairs * (1 + count)])
    other_videos, other_texts = other_videos.reshape(pairs, count), other_texts.reshape(pairs, count)
    term = mining.sampled_nce(positive, other_videos, other_texts, negatives, valid, weights=weights)
    best = jnp.where(negatives.videos_mask, other_videos, -jnp.inf).max(axis=1)
    hits = ((positive > best) & valid).sum().astype(jnp.float32)
    return Computed({"gvtm_stage2": term}, {"beats_hard_negatives": (hits, valid.sum().astype(jnp.float32))}, {})
