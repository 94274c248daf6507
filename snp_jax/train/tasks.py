"""What one training step computes for each task: batch -> named loss terms and metrics.

A task is a pure function of (parameters, batch, key). It calls the network and the objectives; it knows nothing of optimisers,
devices or files. Batches are described in `docs/architecture.md`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from snp_jax.data import augment
from snp_jax.models.network import Network, all_pairs
from snp_jax.models.snp import Clips, CrossInputs, Text
from snp_jax.objectives import masking, matching
from snp_jax.objectives.total import SumCount, total_loss

Batch = Mapping[str, jax.Array]
Outcome = tuple[jax.Array, dict[str, SumCount]]


@dataclasses.dataclass(frozen=True)
class MatchingOptions:
    """How GVTM compares a batch.

    Attributes:
        anchor: "middle" (published) or "bag"; see `matching.mil_nce`.
        temperature: divides stage-1 similarities (1 = published).
        negatives: stage-2 negatives per text and per video, drawn by stage-1 similarity; 0 = all pairs (published).
        draw_temperature: softness of that draw, in units of cosine similarity.
        chunk: pairs per cross-branch pass; 0 = all at once.
    """

    anchor: str
    temperature: float
    negatives: int
    draw_temperature: float
    chunk: int


@dataclasses.dataclass(frozen=True)
class MaskingOptions:
    """How captions are masked: `kind` "mssm" or "mlm", `ratio` of the tokens, `attentive` = its probability."""

    kind: str
    ratio: float
    attentive: float


def _frames(net: Network, batch: Batch, num_clips: int, key: jax.Array | None) -> Clips:
    frames = augment.normalise(batch["video"], net.model.dtype)
    return net.clips(frames, batch["video_mask"], num_clips=num_clips, key=key)


def stage1_scores(text: Text, clips: Clips, temperature: float) -> jax.Array:
    """Stage-1 similarity of every text with every clip, float32 `[B_text, B_video, N]`."""
    return matching.text_clip_similarity(text.feature, clips.features) / temperature


def matching_terms(
    net: Network,
    text: Text,
    clips: Clips,
    captions: CrossInputs,
    videos: CrossInputs,
    valid: jax.Array,
    options: MatchingOptions,
    *,
    stage1: bool,
    stage2: bool,
    key: jax.Array,
    train: bool,
) -> tuple[dict[str, SumCount], dict[str, SumCount]]:
    """GVTM's two stages as (loss terms, metrics)."""
    terms, metrics = {}, {}
    similarity = stage1_scores(text, clips, options.temperature)
    pooled = matching.pool_clips(similarity, clips.mask)
    if stage1:
        terms["gvtm_stage1"] = matching.mil_nce(similarity, valid, anchor=options.anchor)
        metrics["recall_stage1"] = matching.in_batch_recall(pooled, valid)
    if stage2:
        draw, dropout = jax.random.split(key)
        score = functools.partial(
            net.pair_scores,
            captions,
            videos,
            chunk=options.chunk,
            key=dropout if train else None,
        )
        pairs = valid.shape[0]
        if options.negatives == 0:
            matrix = score(*all_pairs(pairs, pairs)).reshape(pairs, pairs)
            terms["gvtm_stage2"] = matching.mil_nce(matrix[..., None], valid)
            metrics["recall_stage2"] = matching.in_batch_recall(matrix, valid)
        else:
            negatives = matching.draw_negatives(
                draw, pooled, valid, options.negatives, options.draw_temperature / options.temperature
            )
            own = jnp.arange(pairs)
            repeated = jnp.repeat(own, options.negatives)
            scores = score(
                jnp.concatenate([own, repeated, negatives.texts.reshape(-1)]),
                jnp.concatenate([own, negatives.videos.reshape(-1), repeated]),
            )
            positive, other_videos, other_texts = jnp.split(scores, [pairs, pairs * (1 + options.negatives)])
            shape = (pairs, options.negatives)
            terms["gvtm_stage2"] = matching.sampled_nce(
                positive, other_videos.reshape(shape), other_texts.reshape(shape), negatives, valid
            )
            best = jnp.where(negatives.videos_mask, other_videos.reshape(shape), -jnp.inf).max(axis=1)
            hits = ((positive > best) & valid).sum().astype(jnp.float32)
            metrics["beats_hard_negatives"] = (hits, valid.sum().astype(jnp.float32))
    return terms, metrics


@dataclasses.dataclass(frozen=True)
class PretrainTask:
    """Masking and matching losses on pairs of a video and a caption (SNP-S3 section III).

    Attributes:
        weights: loss weight by term: mlm_text (L1), mlm_cross (L2), gvtm_stage1 (L3), gvtm_stage2 (L4), lvwm. A term
            with weight 0 is not computed.
        lvwm: "after" (last hidden states), "before" (embeddings) or "both".
        words_per_caption: K.
        matching_caption: what stage 2 reads: the "masked" caption (published) or the "raw" one.
    """

    num_clips: int
    weights: Mapping[str, float]
    masking: MaskingOptions
    matching: MatchingOptions
    words: masking.WordArrays
    special_ids: tuple[int, ...]
    mask_id: int
    lvwm: str
    words_per_caption: int
    matching_caption: str

    def on(self, term: str) -> bool:
        """Whether a term has a weight."""
        return self.weights[term] != 0

    def mask_captions(self, key: jax.Array, ids: jax.Array, maskable: jax.Array, vocab_size: int) -> masking.Masked:
        """The masked copy that L1, and mostly L2, read."""
        ratio = self.masking.ratio
        if self.masking.kind == "mlm":
            return masking.mask_any(key, ids, maskable, ratio=ratio, vocab_size=vocab_size, mask_id=self.mask_id)
        return masking.mask_significant(key, ids, maskable, self.words, ratio=ratio, mask_id=self.mask_id)

    def attend(self, key, masked: masking.Masked, ids, maskable, importance, train: bool) -> masking.Masked:
        """The caption of the cross branch: with probability `attentive`, masked where the text branch attends."""
        if not (train and self.masking.attentive):
            return masked
        coin, draw = jax.random.split(key)
        attended = masking.mask_attended(draw, ids, maskable, importance, ratio=self.masking.ratio, mask_id=self.mask_id)
        use = jax.random.bernoulli(coin, self.masking.attentive)
        return jax.tree.map(lambda new, old: jnp.where(use, new, old), attended, masked)

    def lvwm_terms(self, key, text: Text, clips: Clips, ids, maskable, valid) -> dict[str, SumCount]:
        """Word-clip matching on the un-masked caption, from `Text.sequence` and / or `Text.embedded`."""
        position = masking.choose_words(key, ids, maskable, self.words.significant, self.words_per_caption)
        sources = {
            "after": [text.sequence],
            "before": [text.embedded],
            "both": [text.sequence, text.embedded],
        }
        losses = []
        for hidden in sources[self.lvwm]:
            words = jnp.take_along_axis(hidden, position[..., None], axis=1)  # [B, K, D]
            scores = matching.word_clip_similarity(words, clips.features)
            losses.append(matching.mil_nce(scores, valid, anchor=self.matching.anchor))
        return {"lvwm": (sum(total for total, _ in losses), losses[0][1])}

    def loss(self, net: Network, batch: Batch, key: jax.Array, *, train: bool) -> Outcome:
        """Weighted total and every term of one batch of pairs."""
        names = ("mask", "attend", "words", "pairs", "video", "text", "cross", "caption", "clips")
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        dropout = keys if train else dict.fromkeys(names)
        ids, mask, valid = batch["text_ids"], batch["text_mask"], batch["valid"]
        maskable = masking.special_free(ids, mask, self.special_ids)
        terms, metrics = {}, {}

        clips = _frames(net, batch, self.num_clips, dropout["video"])
        masked = self.mask_captions(keys["mask"], ids, maskable, net.model.config.bert.vocab_size)
        if self.on("mlm_text"):
            # One pass of the text branch over raw and masked captions: matching reads the first half, L1 the second.
            both = net.text(jnp.concatenate([ids, masked.ids]), jnp.concatenate([mask, mask]), key=dropout["text"])
            raw, hidden = (jax.tree.map(lambda x, i=i: jnp.split(x, 2)[i], both) for i in range(2))
            logits = net.head("text_word_logits", hidden.sequence)
            scored = masking.masked_word_loss(logits, masked.labels, valid)
            terms["mlm_text"], metrics["accuracy_text"] = scored["loss"], scored["accuracy"]
        else:
            raw = net.text(ids, mask, key=dropout["text"])
        videos = net.clip_inputs(clips.tokens, clips.mask, key=dropout["clips"])
        if self.on("mlm_cross"):
            cross_masked = self.attend(keys["attend"], masked, ids, maskable, raw.importance, train)
            caption = net.caption_inputs(cross_masked.ids, mask, key=dropout["caption"])
            crossed = net.cross(caption, videos, key=dropout["cross"])
            logits = net.head("cross_word_logits", crossed.sequence)
            scored = masking.masked_word_loss(logits, cross_masked.labels, valid)
            terms["mlm_cross"], metrics["accuracy_cross"] = scored["loss"], scored["accuracy"]
        if self.on("lvwm"):
            terms |= self.lvwm_terms(keys["words"], raw, clips, ids, maskable, valid)
        captions = (
            net.caption_inputs(masked.ids, mask, key=dropout["caption"])
            if self.matching_caption == "masked"
            else CrossInputs(raw.embedded, mask)
        )
        gvtm, gvtm_metrics = matching_terms(
            net, raw, clips, captions, videos, valid, self.matching,
            stage1=self.on("gvtm_stage1"), stage2=self.on("gvtm_stage2"), key=keys["pairs"], train=train,
        )  # fmt: skip
        terms |= gvtm
        return total_loss(terms, self.weights), terms | metrics | gvtm_metrics


@dataclasses.dataclass(frozen=True)
class RetrievalTask:
    """Text-to-video retrieval: both stages of GVTM on un-masked captions."""

    num_clips: int
    weights: Mapping[str, float]
    matching: MatchingOptions

    def loss(self, net: Network, batch: Batch, key: jax.Array, *, train: bool) -> Outcome:
        """Weighted total of `gvtm_stage1` and `gvtm_stage2`."""
        video_key, text_key, clip_key, pair_key = jax.random.split(key, 4)
        clips = _frames(net, batch, self.num_clips, video_key if train else None)
        text = net.text(batch["text_ids"], batch["text_mask"], key=text_key if train else None)
        videos = net.clip_inputs(clips.tokens, clips.mask, key=clip_key if train else None)
        captions = CrossInputs(text.embedded, batch["text_mask"])
        terms, metrics = matching_terms(
            net, text, clips, captions, videos, batch["valid"], self.matching,
            stage1=self.weights["gvtm_stage1"] != 0, stage2=self.weights["gvtm_stage2"] != 0,
            key=pair_key, train=train,
        )  # fmt: skip
        return total_loss(terms, self.weights), terms | metrics


@dataclasses.dataclass(frozen=True)
class AnswerTask:
    """Open-ended question answering as classification over the answer vocabulary."""

    num_clips: int

    def loss(self, net: Network, batch: Batch, key: jax.Array, *, train: bool) -> Outcome:
        """Cross entropy of the answer; questions whose answer is outside the vocabulary carry no loss and count as wrong."""
        video_key, pair_key = jax.random.split(key)
        clips = _frames(net, batch, self.num_clips, video_key if train else None)
        pooled = cross_pooled(net, clips, batch["text_ids"], batch["text_mask"], pair_key if train else None)
        scored = matching.choice_loss(net.head("answer_logits", pooled), batch["label"], batch["valid"])
        return total_loss({"answer": scored["loss"]}, {"answer": 1.0}), {
            "answer": scored["loss"], "accuracy": scored["accuracy"],
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ChoiceTask:
    """Multiple choice: cross entropy of the matching scores over the options."""

    num_clips: int

    def loss(self, net: Network, batch: Batch, key: jax.Array, *, train: bool) -> Outcome:
        """Cross entropy of the right option; `text_ids` is `[B, O, L]`."""
        video_key, pair_key, match_key = jax.random.split(key, 3)
        clips = _frames(net, batch, self.num_clips, video_key if train else None)
        pairs, options, length = batch["text_ids"].shape
        ids = batch["text_ids"].reshape(pairs * options, length)
        mask = batch["text_mask"].reshape(pairs * options, length)
        repeated = jax.tree.map(lambda x: jnp.repeat(x, options, axis=0), clips)
        pooled = cross_pooled(net, repeated, ids, mask, pair_key if train else None)
        logits = net.match(pooled, key=match_key if train else None).reshape(pairs, options)
        scored = matching.choice_loss(logits, batch["label"], batch["valid"])
        return total_loss({"choice": scored["loss"]}, {"choice": 1.0}), {
            "choice": scored["loss"], "accuracy": scored["accuracy"],
        }  # fmt: skip


def cross_pooled(net: Network, clips: Clips, ids, mask, key: jax.Array | None) -> jax.Array:
    """Pooled cross-branch output of text i with video i, `[B, D]`."""
    keys = (None,) * 3 if key is None else jax.random.split(key, 3)
    caption = net.caption_inputs(ids, mask, key=keys[0])
    videos = net.clip_inputs(clips.tokens, clips.mask, key=keys[1])
    return net.cross(caption, videos, key=keys[2]).pooled
