"""One pre-training step: masked words, matching, word-clip matching, and optionally image-text matching and frame order.

SNP-S3 section III. `compute` draws what is random and calls `forward`, a pure function of the frames, the batch, the choices
and the dropout keys.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from snp_jax.models.network import Network
from snp_jax.models.packing import Packing
from snp_jax.models.snp import Clips, Cross, CrossInputs, Text
from snp_jax.objectives import contrast, masking, matching, order, tagging
from snp_jax.objectives.contrast import Sides
from snp_jax.objectives.masking import Masked
from snp_jax.objectives.total import SumCount, nan_if_empty
from snp_jax.train.choices import FalseCaptions, Masker, PretrainChoices
from snp_jax.train.gvtm import Captions, Computed, Everyone, Pairs, gather_everyone
from snp_jax.train.tasks import (
    TEXT_PLACES,
    Batch,
    Forward,
    Keys,
    MatchingTask,
    Outcome,
    embed_raw,
    encode_frames,
    frames_of,
    packing,
    repeated_rows,
)

WORDS_OF = {"after": ("after",), "before": ("before",), "both": ("after", "before")}
"""Word features that each setting of LVWM compares: last hidden states, or outputs of the embedding layer."""
DRAWS = ("mask", "attend", "words", "pairs", "video", "text", "cross", "caption", "clips")
MORE_DRAWS = (
    "false",
    "order",
    "false_caption",
    "false_cross",
    "order_clips",
    "order_cross",
    "order_encoder",
    "lvwm_text",
    "moco",
    "tag_caption",
    "tag_cross",
)
"""Names of a step's random keys: what is drawn, and where dropout acts."""


@dataclasses.dataclass(frozen=True)
class PretrainTask(MatchingTask):
    """Every objective on pairs of a video and a caption.

    Attributes:
        weights: loss weight by term: mlm_text (L1), mlm_cross (L2), gvtm_stage1 (L3), gvtm_stage2 (L4), lvwm, itm, fom, tags.
        masker: masks the captions that L1 and mostly L2 read.
        mask_ratio: share of the tokens that attentive masking takes.
        attentive: its probability.
        significant: bool `[V]`, the words LVWM draws from.
        words_per_caption: K.
        lvwm: "after" (last hidden states), "before" (embeddings) or "both".
        matching_caption: what stage 2 reads: the "masked" caption (published) or the "raw" one.
        order_ratio: share of the clips that FOM moves.
    """

    masker: Masker
    mask_ratio: float
    attentive: float
    significant: jax.Array
    special_ids: tuple[int, ...]
    mask_id: int
    lvwm: str
    words_per_caption: int
    matching_caption: str
    order_ratio: float

    def compute(self, net: Network, batch: Batch, key: jax.Array, *, train: bool, memory: Any) -> Outcome:
        """Every term of one batch of pairs."""
        keys = dict(zip(DRAWS, jax.random.split(key, len(DRAWS)), strict=True))
        keys["pairs"], keys["pair_dropout"] = jax.random.split(keys["pairs"])
        more = jax.random.fold_in(key, len(DRAWS))
        keys |= dict(zip(MORE_DRAWS, jax.random.split(more, len(MORE_DRAWS)), strict=True))
        choices = PretrainChoices(
            keys=keys, shard=net.shard, mining=self.matching.mining_options, masker=self.masker, ratio=self.mask_ratio,
            attentive=self.attentive if train else 0.0, mask_id=self.mask_id, significant=self.significant,
            words_per_caption=self.words_per_caption, order_ratio=self.order_ratio,
        )  # fmt: skip
        computed, memory = self.forward(
            net, frames_of(net, batch), batch, choices, keys if train else dict.fromkeys(keys), memory if train else None
        )
        return Outcome(computed.terms, computed.metrics, memory)

    def forward(self, net: Network, frames: jax.Array, batch: Batch, choices: Any, keys: Keys, memory: Any) -> Forward:
        """The step as a pure function.

        Args:
            frames: normalised float `[B, T, H, W, 3]`.
            batch: the rest of the batch; its "video" is not read. With `compat.separate_windows`, "text_ids_to_mask" int32
                `[B, L]` is the window of the captions that is masked.
            choices: what is random beside dropout; see `choices.PretrainChoices`.
            keys: dropout keys by the names of `DRAWS` and `MORE_DRAWS`; None = no dropout there.
            memory: MoCo's, or None for MIL-NCE in stage 1.

        Returns:
            Terms and metrics by name. Shown: `clips`, `text`, `cross` (as the network returns them), "similarity", "scores",
            "text_logits", "cross_logits", "lvwm_after", "lvwm_before", "false_pooled", "order_input", "order_output",
            "order_logits", where they are computed.
        """
        ids, mask, valid = batch["text_ids"], batch["text_mask"], batch["valid"]
        to_mask = batch["text_ids_to_mask"] if self.compat.separate_windows else ids
        maskable, maskable_there = (masking.special_free(x, mask, self.special_ids) for x in (ids, to_mask))
        clips = encode_frames(net, frames, batch, self.num_clips, keys["video"])
        masked = choices.mask(to_mask, maskable_there)
        raw, read = self.read_captions(net, batch, masked, keys)
        cross_masked = choices.attend(masked, ids, maskable, raw.importance)
        videos = net.clip_inputs(clips.tokens, clips.mask, key=keys["clips"])
        everyone = gather_everyone(net.shard, raw, clips, valid)
        parts = [Computed({}, {}, {"clips": clips, "text": raw})]
        if self.on("mlm_text"):
            parts.append(self.words(net, "text", read.sequence, self.text_labels(masked, cross_masked), valid))
        caption = net.caption_inputs(cross_masked.ids, mask, key=keys["caption"])
        captions, pooled = self.captions_to_match(net, raw, batch, masked, keys), None
        if self.on("mlm_cross") or self.on("itm") or (self.on("fom") and self.compat.order_over_batch):
            with_clips = packing(batch, more=videos.mask.shape[1])
            crossed, pooled = self.cross_own(net, caption, captions.inputs, videos, with_clips, choices.attends(), keys)
            parts.append(Computed({}, {}, {"cross": crossed}))
        if self.on("mlm_cross"):
            parts.append(self.words(net, "cross", crossed.sequence, cross_masked.labels, valid))
        if self.on("lvwm"):
            words = choices.words(to_mask, maskable_there) if self.compat.separate_lvwm_pass else choices.words(ids, maskable)
            parts.append(self.word_clips(net, raw, clips, everyone, masked, batch, words, keys))
        if self.on("itm"):
            offered = ids if self.compat.raw_itm_negatives else cross_masked.ids
            parts.append(self.image_text(net, crossed, videos, choices.false_captions(offered, mask, valid), valid, keys))
        if self.on("fom"):
            to_order = self.clip_outputs(net, caption, clips, crossed if self.compat.order_over_batch else None, keys)
            parts.append(self.frame_order(net, *to_order, valid, choices, keys))
        if self.on("tags"):
            parts.append(self.tags(net, videos, ids, maskable, valid, keys))
        pairs = Pairs(raw, clips, captions, videos, valid, pooled)
        matched, memory = self.match(net, pairs, everyone, frames, batch, choices, keys, memory)
        parts.append(matched)
        terms, metrics, shown = ({name: x for part in parts for name, x in part[i].items()} for i in range(3))
        return Forward(Computed(terms, metrics, shown), memory)

    # ------------------------------------------------------------------ captions
    def read_captions(self, net: Network, batch: Batch, masked: Masked, keys: Keys) -> tuple[Text, Text]:
        """The text branch on the raw captions, and on what L1 predicts from: one pass of both halves."""
        ids, mask = batch["text_ids"], batch["text_mask"]
        if self.compat.raw_text_words or not self.on("mlm_text"):
            raw = net.text(ids, mask, packing=packing(batch), importance=True, key=keys["text"])
            return raw, raw
        rows = self.raw_rows(net.shard.rows(ids.shape[0]))
        both = net.text(
            jnp.concatenate([ids, masked.ids]), jnp.concatenate([mask, mask]), packing=packing(batch, copies=2),
            importance=True, key=keys["text"], rows=jnp.concatenate([rows, rows + 1]),
        )  # fmt: skip
        return tuple(jax.tree.map(lambda x, i=i: jnp.split(x, 2)[i], both) for i in range(2))

    def raw_rows(self, rows: jax.Array) -> jax.Array:
        """Numbers of raw captions in the text branch; where it reads their masked copies too, those have the odd ones."""
        return rows if self.compat.raw_text_words or not self.on("mlm_text") else rows * 2

    def text_labels(self, masked: Masked, cross_masked: Masked) -> jax.Array:
        """What L1 predicts: the words masked in what it read; in the release, those masked for the cross branch."""
        return cross_masked.labels if self.compat.raw_text_words else masked.labels

    def cross_own(
        self,
        net: Network,
        caption: CrossInputs,
        matched: CrossInputs,
        videos: CrossInputs,
        with_clips: Packing | None,
        attends: bool | jax.Array,
        keys: Keys,
    ) -> tuple[Cross, jax.Array | None]:
        """The cross branch on each video with its own caption, and its pooled output with the caption that stage 2 reads.

        The two are one pass where both read the same caption, the masked one: where it is not masked by attention.

        Args:
            caption: what the masked words of the cross branch are read from.
            matched: what stage 2 reads.
            with_clips: packing of a caption and its video.
            attends: whether `caption` is masked by attention: True, False, or a bool scalar which decides on the device.

        Returns:
            The output, and the pooled one `[B, D]` or None where it is not known.
        """

        def cross(caption: CrossInputs) -> Cross:
            return net.cross(caption, videos, packing=with_clips, key=keys["cross"])

        if attends is True or self.matching_caption != "masked" or not self.on("gvtm_stage2"):
            return cross(caption), None
        shared = cross(matched)
        if attends is False:
            return shared, shared.pooled
        crossed = jax.lax.cond(attends, lambda: cross(caption), lambda: shared)
        return crossed, shared.pooled

    def captions_to_match(self, net: Network, raw: Text, batch: Batch, masked: Masked, keys: Keys) -> Captions:
        """What stage 2 reads."""
        ids, mask, places = batch["text_ids"], batch["text_mask"], batch.get(TEXT_PLACES)
        if self.matching_caption == "raw":
            embed = functools.partial(embed_raw, net, keys, lambda places: self.raw_rows(net.shard.numbers(places)))
            return Captions(ids, mask, net.raw_caption(raw, ids, mask, key=keys["caption"]), embed, places)

        def embed(ids: jax.Array, mask: jax.Array, places: jax.Array) -> CrossInputs:
            return net.caption_inputs(ids, mask, key=keys["caption"], rows=net.shard.numbers(places))

        return Captions(masked.ids, mask, net.caption_inputs(masked.ids, mask, key=keys["caption"]), embed, places)

    # ------------------------------------------------------------------ terms
    def _counted(self, net: Network, term: SumCount) -> SumCount:
        return nan_if_empty(term, net.shard.total(term[1])) if self.compat.nan_when_empty else term

    def words(self, net: Network, branch: str, sequence: jax.Array, labels: jax.Array, valid: jax.Array) -> Computed:
        """L1 ("text") or L2 ("cross"): masked words from hidden states `[B, L, D]`."""
        head = functools.partial(net.head, f"{branch}_word_logits")
        room = masking.room_for_labels(labels.shape[1], self.mask_ratio)
        scored = masking.masked_words(head, sequence, labels, valid, room)
        term = self._counted(net, scored["loss"])
        shown = {f"{branch}_logits": head(sequence)}
        return Computed({f"mlm_{branch}": term}, {f"accuracy_{branch}": scored["accuracy"]}, shown)

    def word_clips(
        self, net: Network, raw: Text, clips: Clips, everyone: Everyone, masked: Masked, batch: Batch, position: jax.Array,
        keys: Keys,
    ) -> Computed:  # fmt: skip
        """LVWM: words of the un-masked caption at `position`, int32 `[B, K]`, against clips."""
        valid = batch["valid"]
        if self.compat.separate_lvwm_pass:
            restored = jnp.where(masked.labels == masking.IGNORE, masked.ids, masked.labels)
            raw = net.text(restored, batch["text_mask"], key=keys["lvwm_text"])
        hidden = {"after": raw.sequence, "before": raw.embedded}
        losses, shown, chunk = {}, {}, self.matching.similarity_chunk
        similarity = matching.word_clip_similarity
        for name in WORDS_OF[self.lvwm]:
            words = jnp.take_along_axis(hidden[name], position[..., None], axis=1).astype(jnp.float32)  # [b, K, D]
            here = Sides(words, clips.features, clips.mask)
            all_sides = Sides(net.shard.gather(words), everyone.sides.clips, everyone.sides.mask)
            per_pair = contrast.contrast(
                similarity, here, all_sides, everyone.own, everyone.valid, anchor=self.matching.anchor, chunk=chunk
            )
            shown[f"lvwm_{name}"] = contrast.pooled_rows(similarity, words, all_sides, chunk=chunk)
            losses[f"lvwm_{name}"] = matching.summed(per_pair, valid)
        totals, counts = zip(*losses.values(), strict=True)
        return Computed({"lvwm": (sum(totals), counts[0])}, losses if len(losses) > 1 else {}, shown)

    def image_text(
        self, net: Network, crossed: Cross, videos: CrossInputs, false: FalseCaptions, valid: jax.Array, keys: Keys
    ) -> Computed:
        """ITM: the pairs (class 1) against each video with the caption of another (class 0)."""
        caption = net.caption_inputs(false.ids, false.mask, key=keys["false_caption"])
        wrong = net.cross_pooled(caption, videos, key=keys["false_cross"])
        logits = net.head("itm_logits", jnp.concatenate([crossed.pooled, wrong]))
        label = jnp.repeat(jnp.asarray([1, 0], jnp.int32), valid.shape[0])
        scored = matching.choice_loss(logits, label, jnp.concatenate([valid, valid & false.valid]))
        return Computed({"itm": scored["loss"]}, {"accuracy_itm": scored["accuracy"]}, {"false_pooled": wrong})

    def tags(self, net: Network, videos: CrossInputs, ids, maskable, valid, keys: Keys) -> Computed:
        """The cross branch reads a video with an empty caption, and its CLS names the words of the caption.

        Not in the paper. From fresh weights the branch learns to read the ORDER of clips this way, which it does not from
        masked words and matching alone (`docs/log.md`).
        """
        empty = jnp.stack([ids[:, 0], jnp.full(ids.shape[:1], net.model.config.sep_id, ids.dtype)], axis=1)  # [CLS] [SEP]
        caption = net.caption_inputs(empty, jnp.ones(empty.shape, bool), key=keys["tag_caption"])
        first = net.cross(caption, videos, key=keys["tag_cross"]).sequence[:, 0]
        logits = net.head("cross_word_logits", first)
        tags = tagging.caption_tags(ids, maskable, logits.shape[1])
        scored = tagging.tag_loss(logits, tags, valid, tagging.rarity(tags, valid, net.shard.total))
        term = self._counted(net, scored["loss"])
        return Computed({"tags": term}, {"precision_tags": scored["precision"]}, {"tag_logits": logits})

    def clip_outputs(
        self, net: Network, caption: CrossInputs, clips: Clips, crossed: Cross | None, keys: Keys
    ) -> tuple[jax.Array, jax.Array]:
        """What FOM orders: pooled cross outputs of the caption with each single clip, `[B, N, D]`, and their mask.

        With `crossed` it is the release's `[B/N, N, D]` of whole videos instead: N consecutive pairs pass for one video.
        """
        if crossed is not None:
            pooled = crossed.pooled.reshape(-1, self.num_clips, crossed.pooled.shape[-1])
            return pooled, jnp.ones(pooled.shape[:2], bool)
        pairs, count, width = clips.tokens.shape
        rows = repeated_rows(net.shard.rows(pairs), count)
        single = net.clip_inputs(
            clips.tokens.reshape(-1, 1, width), clips.mask.reshape(-1, 1), key=keys["order_clips"], rows=rows
        )  # [B*N, 2, D]
        repeated = jax.tree.map(lambda x: net.spread(jnp.repeat(x, count, axis=0)), caption)
        pooled = net.cross_pooled(repeated, single, key=keys["order_cross"], rows=rows)
        return pooled.reshape(pairs, count, width), clips.mask

    def frame_order(self, net: Network, pooled: jax.Array, clip_mask: jax.Array, valid, choices: Any, keys: Keys) -> Computed:
        """FOM: the temporal encoder reads shuffled clips and says which clip is where."""
        drawn = choices.clip_order(clip_mask)
        moved = order.reorder(pooled, drawn.order)
        sequence = net.order(moved, order.reorder(clip_mask, drawn.order), key=keys["order_encoder"])
        logits = net.head("order_logits", sequence)
        valid = valid.reshape(pooled.shape[0], -1).all(axis=1)
        scored = masking.masked_word_loss(logits, drawn.target, valid)
        shown = {"order_input": moved, "order_output": sequence, "order_logits": logits}
        return Computed({"fom": self._counted(net, scored["loss"])}, {"accuracy_fom": scored["accuracy"]}, shown)
