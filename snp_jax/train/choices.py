"""The random decisions of a training step, apart from dropout: asked for by name, drawn from a key or given beforehand.

A task's `loss` draws them (`PairChoices`, `PretrainChoices`); its pure `forward` takes any object with the same methods, so
that a recorded step can be repeated exactly (`FixedChoices`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from snp_jax.objectives import masking, mining, order
from snp_jax.objectives.masking import Masked
from snp_jax.objectives.mining import Negatives
from snp_jax.objectives.order import ClipOrder

Masker = Callable[[jax.Array, jax.Array, jax.Array], Masked]
"""(key, ids, maskable) -> the masked captions; ids int32 `[B, L]`, maskable bool `[B, L]`."""


@dataclasses.dataclass(frozen=True)
class MiningOptions:
    """How stage 2's negatives are chosen.

    Attributes:
        rule: "sample" (by stage-1 similarity), "nearest" (closest to the positive's score) or "top_k" (highest score).
        count: negatives per text and per video.
        temperature: of "sample", divides stage-1 scores.
    """

    rule: str
    count: int
    temperature: float


class FalseCaptions(NamedTuple):
    """Captions of other videos: `ids` int32 `[B, L]`, `mask` bool `[B, L]`, `valid` bool `[B]` (False: there is no other)."""

    ids: jax.Array
    mask: jax.Array
    valid: jax.Array


@dataclasses.dataclass(frozen=True)
class PairChoices:
    """Which pairs stage 2 of GVTM compares; `keys["pairs"]` is used."""

    keys: Mapping[str, jax.Array]
    mining: MiningOptions

    def negatives(self, similarity: jax.Array, valid: jax.Array) -> Negatives:
        """Hard negatives by stage-1 similarity, float32 `[B_text, B_video]`."""
        if self.mining.rule == "sample":
            return mining.draw_negatives(self.keys["pairs"], similarity, valid, self.mining.count, self.mining.temperature)
        return mining.mine_negatives(similarity, valid, self.mining.count, self.mining.rule)

    def columns(self, similarity: jax.Array, valid: jax.Array, count: int) -> jax.Array:
        """The videos of the release's mined matrix, int32 `[B, count]`."""
        return mining.mine_columns(similarity, valid, count, self.mining.rule)


@dataclasses.dataclass(frozen=True)
class PretrainChoices(PairChoices):
    """All of pre-training's choices; of `keys`, "mask", "attend", "words", "false" and "order" are used besides.

    Attributes:
        masker: how captions are masked.
        ratio: share of the tokens that attentive masking takes.
        attentive: its probability; 0 = never.
        mask_id: id of [MASK].
        significant: bool `[V]`.
        words_per_caption: K.
        order_ratio: share of the clips that FOM moves.
    """

    masker: Masker
    ratio: float
    attentive: float
    mask_id: int
    significant: jax.Array
    words_per_caption: int
    order_ratio: float

    def mask(self, ids: jax.Array, maskable: jax.Array) -> Masked:
        """The masked copy of the captions int32 `[B, L]`; `maskable` bool `[B, L]` marks their words."""
        return self.masker(self.keys["mask"], ids, maskable)

    def attends(self) -> bool | jax.Array:
        """Whether `attend` changes anything in this step: False where that is known beforehand, else a bool scalar."""
        if not self.attentive:
            return False
        coin, _ = jax.random.split(self.keys["attend"])
        return jax.random.bernoulli(coin, self.attentive)

    def attend(self, masked: Masked, ids: jax.Array, maskable: jax.Array, importance: jax.Array) -> Masked:
        """The captions of the cross branch: with probability `attentive`, masked where the text branch attends."""
        if not self.attentive:
            return masked
        _, draw = jax.random.split(self.keys["attend"])
        attended = masking.mask_attended(draw, ids, maskable, importance, ratio=self.ratio, mask_id=self.mask_id)
        return jax.tree.map(lambda new, old: jnp.where(self.attends(), new, old), attended, masked)

    def words(self, ids: jax.Array, maskable: jax.Array) -> jax.Array:
        """LVWM's word positions, int32 `[B, K]`."""
        return masking.choose_words(self.keys["words"], ids, maskable, self.significant, self.words_per_caption)

    def false_captions(self, ids: jax.Array, mask: jax.Array, valid: jax.Array) -> FalseCaptions:
        """For each video the caption of a random other valid one."""
        other = valid[:, None] & valid[None, :] & ~jnp.eye(valid.shape[0], dtype=bool)
        row = jax.random.categorical(self.keys["false"], jnp.where(other, 0.0, -jnp.inf))
        row = jnp.where(other.any(axis=1), row, 0)
        return FalseCaptions(ids[row], mask[row], other.any(axis=1))

    def clip_order(self, clip_mask: jax.Array) -> ClipOrder:
        """The shuffle of FOM for clips with mask bool `[B, N]`."""
        return order.draw_order(self.keys["order"], clip_mask, ratio=self.order_ratio)


class FixedChoices(NamedTuple):
    """Choices made beforehand, as arrays. One that is asked for and is None is a programming error.

    Attributes:
        masked: the masked captions.
        attended: the cross branch's captions where they are masked by attention, else None.
        word_positions: int32 `[B, K]`.
        false: the captions of other videos.
        shuffle: the order of the clips.
        mined: int32 `[B, s]`, the mined videos before column b % s becomes the text's own.
    """

    masked: Masked | None = None
    attended: Masked | None = None
    word_positions: jax.Array | None = None
    false: FalseCaptions | None = None
    shuffle: ClipOrder | None = None
    mined: jax.Array | None = None

    def mask(self, ids, maskable) -> Masked:
        """See `PretrainChoices`."""
        return self.masked

    def attends(self) -> bool:
        """See `PretrainChoices`."""
        return self.attended is not None

    def attend(self, masked, ids, maskable, importance) -> Masked:
        """See `PretrainChoices`."""
        return masked if self.attended is None else self.attended

    def words(self, ids, maskable) -> jax.Array:
        """See `PretrainChoices`."""
        return self.word_positions

    def false_captions(self, ids, mask, valid) -> FalseCaptions:
        """See `PretrainChoices`."""
        return self.false

    def clip_order(self, clip_mask) -> ClipOrder:
        """See `PretrainChoices`."""
        return self.shuffle

    def negatives(self, similarity, valid) -> Negatives:
        """See `PairChoices`; no recorded step samples negatives."""
        raise NotImplementedError("negatives were not recorded")

    def columns(self, similarity, valid, count) -> jax.Array:
        """See `PairChoices`."""
        return mining.put_own(jnp.asarray(self.mined))
