"""The random decisions of a training step, apart from dropout: asked for by name, drawn from a key or given beforehand.

A task's `loss` draws them (`PairChoices`, `PretrainChoices`); its pure `forward` takes any object with the same methods, so
that a recorded step can be repeated exactly (`FixedChoices`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snp_jax.models.shard import Shard, row_keys
from snp_jax.objectives import masking, mining, order
from snp_jax.objectives.masking import Masked
from snp_jax.objectives.mining import Negatives, Similarities
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


def each_row(draw: Callable[..., Any], keys: jax.Array, *arrays: Any) -> Any:
    """Runs `draw(key, *arrays)` for every row of the arrays by itself, with its own key (`[R]`).

    So what is drawn for a row does not depend on the rows beside it, nor on the device that holds it.
    """

    def one(key: jax.Array, *row: Any) -> Any:
        return jax.tree.map(lambda x: x[0], draw(key, *jax.tree.map(lambda x: x[None], row)))

    return jax.vmap(one)(keys, *arrays)


@dataclasses.dataclass(frozen=True)
class PairChoices:
    """Which pairs stage 2 of GVTM compares; `keys["pairs"]` is used.

    Attributes:
        keys: scalar keys of a step's draws by name.
        shard: which rows of the batch are here; every row is drawn for by its number.
    """

    keys: Mapping[str, jax.Array]
    shard: Shard
    mining: MiningOptions

    def row_keys(self, name: str, count: int) -> jax.Array:
        """The keys of the `count` rows that are here, for one kind of draw."""
        return row_keys(self.keys[name], self.shard.rows(count))

    def negatives(self, found: Similarities) -> Negatives:
        """Hard negatives by stage-1 similarity."""
        if self.mining.rule != "sample":
            return mining.mine_negatives(found, self.mining.count, self.mining.rule)
        both = jax.vmap(jax.random.split)(self.row_keys("pairs", found.own.shape[0]))  # [b, 2]
        return mining.draw_negatives((both[:, 0], both[:, 1]), found, self.mining.count, self.mining.temperature)

    def columns(self, found: Similarities, count: int) -> jax.Array:
        """The videos of the release's mined matrix, int32 `[b, count]`."""
        return mining.mine_columns(found, count, self.mining.rule)


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
        return each_row(self.masker, self.row_keys("mask", ids.shape[0]), ids, maskable)

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
        mask = functools.partial(masking.mask_attended, ratio=self.ratio, mask_id=self.mask_id)
        attended = each_row(mask, row_keys(draw, self.shard.rows(ids.shape[0])), ids, maskable, importance)
        return jax.tree.map(lambda new, old: jnp.where(self.attends(), new, old), attended, masked)

    def words(self, ids: jax.Array, maskable: jax.Array) -> jax.Array:
        """LVWM's word positions, int32 `[B, K]`."""
        choose = functools.partial(masking.choose_words, significant=self.significant, count=self.words_per_caption)
        return each_row(choose, self.row_keys("words", ids.shape[0]), ids, maskable)

    def false_captions(self, ids: jax.Array, mask: jax.Array, valid: jax.Array) -> FalseCaptions:
        """For each video the caption of a random other valid one."""
        own, keys = self.shard.places(valid.shape[0]), self.row_keys("false", valid.shape[0])
        ids, mask, everyone = self.shard.gather((ids, mask, valid))
        other = valid[:, None] & everyone[None, :] & (own[:, None] != jnp.arange(everyone.shape[0]))
        row = jax.vmap(jax.random.categorical)(keys, jnp.where(other, 0.0, -jnp.inf))
        row = jnp.where(other.any(axis=1), row, 0)
        return FalseCaptions(ids[row], mask[row], other.any(axis=1))

    def clip_order(self, clip_mask: jax.Array) -> ClipOrder:
        """The shuffle of FOM for clips with mask bool `[B, N]`."""
        draw = functools.partial(order.draw_order, ratio=self.order_ratio)
        return each_row(draw, self.row_keys("order", clip_mask.shape[0]), clip_mask)


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

    def negatives(self, found) -> Negatives:
        """See `PairChoices`; no recorded step samples negatives."""
        raise NotImplementedError("negatives were not recorded")

    def columns(self, found, count) -> jax.Array:
        """See `PairChoices`."""
        return mining.put_own(jnp.asarray(self.mined), found.own)
