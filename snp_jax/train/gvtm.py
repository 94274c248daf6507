"""Global vision-text matching as a task computes it: stage-1 similarities, and the cross branch on all or on chosen pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snp_jax.models.network import Network
from snp_jax.models.shard import Shard, pair_numbers
from snp_jax.models.snp import Clips, CrossInputs, Text
from snp_jax.objectives import contrast, matching, mining
from snp_jax.objectives.contrast import Sides
from snp_jax.objectives.matching import EXCLUDED
from snp_jax.objectives.mining import Similarities
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
        similarity_chunk: pairs whose similarities with the batch (stage 1, LVWM) are in memory at a time; 0 = all.
    """

    anchor: str
    temperature: float
    negatives: int
    mining: str
    draw_temperature: float
    reweight: str
    local_groups: int
    chunk: int
    similarity_chunk: int

    @property
    def mining_options(self) -> MiningOptions:
        """What `choices` needs to know."""
        return MiningOptions(self.mining, self.negatives, self.draw_temperature / self.temperature)


class Captions(NamedTuple):
    """What stage 2 reads of the texts that are here, and how captions of others are embedded in the same way.

    Attributes:
        ids, mask: int32 and bool `[b, L]`.
        inputs: the same, embedded.
        embed: (ids, mask, places in the batch) -> inputs of the cross branch.
        places: where their real tokens stand, int32 `[C]` (`models/packing.py`); None = padding is not left out.
    """

    ids: jax.Array
    mask: jax.Array
    inputs: CrossInputs
    embed: Callable[[jax.Array, jax.Array, jax.Array], CrossInputs]
    places: jax.Array | None = None


class Pairs(NamedTuple):
    """The pairs that are here as the network encoded them: both branches, inputs of the cross branch, `valid` `[b]`.

    `pooled` `[b, D]` is the cross branch's output for each caption with its own video, where a step has computed it anyway.
    """

    text: Text
    clips: Clips
    captions: Captions
    videos: CrossInputs
    valid: jax.Array
    pooled: jax.Array | None = None


class Computed(NamedTuple):
    """What a part of a step computed: loss terms, metrics, and named intermediates (dropped by XLA where nobody reads them)."""

    terms: dict[str, SumCount]
    metrics: dict[str, SumCount]
    shown: dict[str, jax.Array]


class Everyone(NamedTuple):
    """The whole batch, as far as contrastive terms see it.

    Attributes:
        sides: text features `[B, D]`, clip features `[B, N, D]` and their mask.
        valid: bool `[B]`.
        own: int32 `[b]`, where the pairs that are here stand.
    """

    sides: Sides
    valid: jax.Array
    own: jax.Array


def sides_of(text: Text, clips: Clips) -> Sides:
    """What stage 1 compares."""
    return Sides(text.feature, clips.features, clips.mask)


def gather_everyone(shard: Shard, text: Text, clips: Clips, valid: jax.Array) -> Everyone:
    """Features of the whole batch from those of the pairs that are here."""
    return Everyone(*shard.gather((sides_of(text, clips), jnp.asarray(valid))), shard.places(valid.shape[0]))


def recall(scores: jax.Array, own: jax.Array, valid: jax.Array, compat: Compat) -> SumCount:
    """In-batch R@1 by the rule for ties that `compat` asks for; see `matching.in_batch_recall`."""
    return (matching.in_batch_recall_listed if compat.listed_ties else matching.in_batch_recall)(scores, own, valid)


def stage1(pairs: Pairs, everyone: Everyone, options: MatchingOptions, compat: Compat) -> tuple[Computed, Similarities]:
    """L3: every text against every clip. Shows "similarity" `[b, B]`, pooled over clips; returns both directions of it."""

    def similarity(texts: jax.Array, clips: jax.Array) -> jax.Array:
        return matching.text_clip_similarity(texts, clips) / options.temperature

    here, chunk = sides_of(pairs.text, pairs.clips), options.similarity_chunk
    sides, valid, own = everyone
    losses = contrast.contrast(similarity, here, sides, own, valid, anchor=options.anchor, chunk=chunk)
    rows = contrast.pooled_rows(similarity, here.texts, sides, chunk=chunk)
    columns = contrast.pooled_columns(similarity, here, sides.texts, chunk=chunk)
    terms = {"gvtm_stage1": matching.summed(losses, pairs.valid)}
    metrics = {"recall_stage1": recall(rows, own, valid[None], compat)}
    return Computed(terms, metrics, {"similarity": rows}), Similarities(rows, columns, own, valid)


def stage2(
    net: Network, pairs: Pairs, found: Similarities, options: MatchingOptions, compat: Compat, choices: Any, key
) -> Computed:
    """L4: the cross branch on pairs. Shows "scores", `[groups, s, s]` where it compares whole matrices.

    Args:
        found: stage 1's similarities.
        choices: see `choices.PairChoices`.
        key: of dropout, or None.
    """
    shard, own = net.shard, found.own
    size = found.valid.shape[0] // options.local_groups
    weights = None
    if options.reweight == "median":
        weights = shard.own(mining.median_weights(shard.gather(found.positive), found.valid))
    videos = shard.gather(pairs.videos)

    def numbers(texts: jax.Array, columns: jax.Array) -> jax.Array:
        return pair_numbers(shard.numbers(texts), shard.numbers(columns))

    def of_own_texts(columns: jax.Array) -> jax.Array:
        """Scores of the texts that are here with the videos at `columns`, `[b, s]` both."""
        return net.all_scores(
            pairs.captions.inputs, videos, columns,
            chunk=options.chunk, key=key, rows=numbers(own[:, None], columns), places=pairs.captions.places,
        )  # fmt: skip

    known = None
    if pairs.pooled is not None:
        known = net.match(pairs.pooled, key=None if key is None else jax.random.fold_in(key, 2))  # 0 and 1: `pair_scores`
    if compat.mined_matrix and options.mining != "sample":
        columns = choices.columns(found, size)
        return _matrices(shard, of_own_texts(columns), columns, found, weights, compat)
    if options.negatives == 0:
        columns = own[:, None] // size * size + jnp.arange(size, dtype=jnp.int32)
        return _matrices(shard, _whole_rows(of_own_texts, columns, own, known), columns, found, weights, compat)
    negatives = choices.negatives(found)
    captions = _with_chosen(shard, pairs.captions, negatives.texts.reshape(-1))
    index = jnp.arange(own.shape[0], dtype=jnp.int32)
    chosen = own.shape[0] + jnp.arange(negatives.texts.size, dtype=jnp.int32)
    index = jnp.concatenate([index, jnp.repeat(index, options.negatives), chosen])
    if known is not None:
        index = index[own.shape[0] :]

    def score(texts: jax.Array, columns: jax.Array) -> jax.Array:
        """Scores of texts and videos at those places, `[P]` each."""
        rows = numbers(texts, columns)
        return net.pair_scores(captions, videos, index, columns, chunk=options.chunk, key=key, rows=rows)

    return _chosen(score, known, negatives, found, weights)


def _with_chosen(shard: Shard, captions: Captions, places: jax.Array) -> CrossInputs:
    """The embedded captions that are here, then those that stand at `places` `[P]` in the batch.

    Their ids are gathered, not their embeddings, which are hundreds of times larger.
    """
    ids, mask = (x[places] for x in shard.gather((captions.ids, captions.mask)))
    others = captions.embed(ids, mask, places)
    return CrossInputs(*(jnp.concatenate([here, other]) for here, other in zip(captions.inputs, others, strict=True)))


def _whole_rows(of_columns: Callable, columns: jax.Array, own: jax.Array, known: jax.Array | None) -> jax.Array:
    """Scores of each text with the videos at `columns`, `[b, s]`; those with its own (column own % s) may be `known`, `[b]`."""
    size = columns.shape[1]
    if known is None or size == 1:
        return of_columns(columns) if known is None else known[:, None]
    place = (own % size)[:, None]  # the row is computed from the next column on, and turned back
    others = of_columns(jnp.take_along_axis(columns, (place + jnp.arange(1, size)) % size, axis=1))
    turned = jnp.concatenate([known[:, None], others], axis=1)
    return jnp.take_along_axis(turned, (jnp.arange(size) - place) % size, axis=1)


def _matrices(
    shard: Shard, scores: jax.Array, columns: jax.Array, found: Similarities, weights: jax.Array | None, compat: Compat
) -> Computed:
    """MIL-NCE on one square matrix per group: text i against videos `columns[i]` (int32 `[b, s]`), its own in `own[i] % s`."""
    own, size = found.own, scores.shape[1]
    usable = found.valid[columns]
    square = shard.gather(jnp.where(usable, scores, EXCLUDED)).reshape(-1, size, size)[..., None]
    places = jnp.arange(size)
    losses = jax.vmap(lambda s, v: matching.pair_losses(s, s, places, v))(square, found.valid.reshape(-1, size))
    term = matching.summed(shard.own(losses.reshape(-1)), found.valid[own], weights)
    hits = recall(scores, own % size, usable, compat)
    return Computed({"gvtm_stage2": term}, {"recall_stage2": hits}, {"scores": square[..., 0]})


def _chosen(
    score: Scorer, known: jax.Array | None, negatives: mining.Negatives, found: Similarities, weights: jax.Array | None
) -> Computed:
    """The loss on k chosen negatives a text and a video; scores of the pairs themselves may be `known`, `[b]`."""
    own, valid = found.own, found.valid[found.own]
    pairs, count = negatives.videos.shape
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
