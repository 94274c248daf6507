"""What one training step computes for each task: batch -> named loss terms and metrics.

A task is a pure function of (parameters, batch, key, memory). It calls the network and the objectives; it knows nothing of
optimisers, devices or files. Pre-training is in `pretrain.py`. Batches are described in `docs/architecture.md`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snp_jax.data import augment
from snp_jax.models.network import Network
from snp_jax.models.packing import Packing, packing_of
from snp_jax.models.snp import Clips, CrossInputs
from snp_jax.objectives import matching
from snp_jax.objectives.total import SumCount
from snp_jax.train import gvtm, momentum
from snp_jax.train.choices import PairChoices
from snp_jax.train.compat import Compat
from snp_jax.train.gvtm import Captions, Computed, Everyone, MatchingOptions, Pairs
from snp_jax.train.momentum import Memory, MocoOptions

TEXT_PLACES = "text_places"
"""Batch key: where the real tokens of the texts stand, int32 `[C]`; what has it leaves their padding out."""

Batch = Mapping[str, jax.Array]
Keys = Mapping[str, jax.Array | None]


class Outcome(NamedTuple):
    """What a step computed from the pairs that are here.

    Attributes:
        terms: loss terms by name, (sum, count); each has a weight in `Task.weights`.
        metrics: metrics by name, (sum, count).
        memory: what the next step starts from; None for a task that remembers nothing.
    """

    terms: dict[str, SumCount]
    metrics: dict[str, SumCount]
    memory: Any


class Forward(NamedTuple):
    """What a task's pure `forward` computed: `computed` as in `gvtm.Computed`, and the memory after the step."""

    computed: Computed
    memory: Any


class Task:
    """What the training step needs: loss terms with their weights, and the memory a run starts with.

    `compute(net, batch, key, train=..., memory=...)` -> `Outcome`.
    """

    weights: Mapping[str, float]

    def init_memory(self, params: Any, key: jax.Array) -> Any:
        """State beside parameters and optimiser that steps hand on (None = none). `params` are those of step 0."""
        del params, key


def frames_of(net: Network, batch: Batch) -> jax.Array:
    """The batch's frames as the network wants them: normalised, in its compute dtype."""
    return augment.network_frames(batch, net.model.dtype)


def encode_frames(net: Network, frames: jax.Array, batch: Batch, num_clips: int, key: jax.Array | None) -> Clips:
    """The visual branch on normalised frames `[B, T, H, W, 3]`."""
    return net.clips(frames, batch["video_mask"], num_clips=num_clips, pixel_mask=batch.get("pixel_mask"), key=key)


@dataclasses.dataclass(frozen=True)
class MatchingTask(Task):
    """A task that trains GVTM.

    Attributes:
        weights: loss weight by term. A term with weight 0 is not computed.
        moco: in training, stage 1 contrasts with queues of momentum keys instead of the batch; None = off.
    """

    num_clips: int
    weights: Mapping[str, float]
    matching: MatchingOptions
    moco: MocoOptions | None
    compat: Compat

    def on(self, term: str) -> bool:
        """Whether a term has a weight."""
        return self.weights[term] != 0

    def init_memory(self, params: Any, key: jax.Array) -> Memory | None:
        """MoCo's queues and key encoders."""
        return None if self.moco is None else momentum.init_memory(params, self.moco, key)

    def match(
        self, net: Network, pairs: Pairs, everyone: Everyone, frames: jax.Array, batch: Batch, choices: Any, keys: Keys,
        memory: Memory | None,
    ) -> Forward:  # fmt: skip
        """Both stages of GVTM. Of `keys`, "pair_dropout" and "moco" are used; without memory stage 1 is MIL-NCE."""
        first, found = gvtm.stage1(pairs, everyone, self.matching, self.compat)
        terms, metrics, shown = {}, {}, dict(first.shown)
        if self.on("gvtm_stage1"):
            terms |= first.terms
            metrics |= first.metrics
            if memory is not None:
                terms["gvtm_stage1"], memory = momentum.contrast(
                    net, pairs.text, pairs.clips, frames, batch, memory, self.moco, keys["moco"]
                )
        if self.on("gvtm_stage2"):
            second = gvtm.stage2(net, pairs, found, self.matching, self.compat, choices, keys["pair_dropout"])
            terms, metrics, shown = terms | second.terms, metrics | second.metrics, shown | second.shown
        return Forward(Computed(terms, metrics, shown), memory)


@dataclasses.dataclass(frozen=True)
class RetrievalTask(MatchingTask):
    """Text-to-video retrieval: both stages of GVTM on un-masked captions."""

    def compute(self, net: Network, batch: Batch, key: jax.Array, *, train: bool, memory: Any) -> Outcome:
        """Terms: `gvtm_stage1` and `gvtm_stage2`."""
        video_key, text_key, clip_key, pair_key = jax.random.split(key, 4)
        draw, dropout = jax.random.split(pair_key)
        keys = {"video": video_key, "text": text_key, "clips": clip_key, "pair_dropout": dropout}
        keys |= {"caption": jax.random.fold_in(key, 4), "moco": jax.random.fold_in(key, 5)}
        choices = PairChoices({"pairs": draw}, net.shard, self.matching.mining_options)
        computed, memory = self.forward(
            net, frames_of(net, batch), batch, choices, keys if train else dict.fromkeys(keys), memory if train else None
        )
        return Outcome(computed.terms, computed.metrics, memory)

    def forward(self, net: Network, frames: jax.Array, batch: Batch, choices: Any, keys: Keys, memory: Any) -> Forward:
        """The step as a pure function of normalised frames `[B, T, H, W, 3]`, choices and dropout keys (None = no dropout)."""
        ids, mask = batch["text_ids"], batch["text_mask"]
        clips = encode_frames(net, frames, batch, self.num_clips, keys["video"])
        text = net.text(ids, mask, packing=packing(batch), key=keys["text"])
        videos = net.clip_inputs(clips.tokens, clips.mask, key=keys["clips"])
        embed = functools.partial(embed_raw, net, keys, net.shard.numbers)
        captions = Captions(ids, mask, net.raw_caption(text, ids, mask, key=keys["caption"]), embed, batch.get(TEXT_PLACES))
        pairs = Pairs(text, clips, captions, videos, batch["valid"])
        everyone = gvtm.gather_everyone(net.shard, text, clips, batch["valid"])
        return self.match(net, pairs, everyone, frames, batch, choices, keys, memory)


@dataclasses.dataclass(frozen=True)
class AnswerTask(Task):
    """Open-ended question answering as classification over the answer vocabulary."""

    num_clips: int
    weights: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"answer": 1.0})

    def compute(self, net: Network, batch: Batch, key: jax.Array, *, train: bool, memory: Any) -> Outcome:
        """Cross entropy of the answer; questions whose answer is outside the vocabulary carry no loss and count as wrong."""
        keys = dict(zip(("video", "cross"), jax.random.split(key), strict=True))
        computed = self.forward(net, frames_of(net, batch), batch, keys if train else dict.fromkeys(keys))
        return Outcome(computed.terms, computed.metrics, memory)

    def forward(self, net: Network, frames: jax.Array, batch: Batch, keys: Keys) -> Computed:
        """The step on normalised frames `[B, T, H, W, 3]`. Shows "pooled" `[B, D]` and "logits" `[B, answers]`."""
        clips = encode_frames(net, frames, batch, self.num_clips, keys["video"])
        with_clips = packing(batch, more=clips.tokens.shape[1] + 1)
        pooled = cross_pooled(net, clips, batch["text_ids"], batch["text_mask"], keys["cross"], packing=with_clips)
        logits = net.head("answer_logits", pooled)
        scored = matching.choice_loss(logits, batch["label"], batch["valid"])
        return Computed({"answer": scored["loss"]}, {"accuracy": scored["accuracy"]}, {"pooled": pooled, "logits": logits})


@dataclasses.dataclass(frozen=True)
class ChoiceTask(Task):
    """Multiple choice: cross entropy of the matching scores over the options."""

    num_clips: int
    weights: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"choice": 1.0})

    def compute(self, net: Network, batch: Batch, key: jax.Array, *, train: bool, memory: Any) -> Outcome:
        """Cross entropy of the right option; `text_ids` is `[B, O, L]`."""
        keys = dict(zip(("video", "cross", "match"), jax.random.split(key, 3), strict=True))
        computed = self.forward(net, frames_of(net, batch), batch, keys if train else dict.fromkeys(keys))
        return Outcome(computed.terms, computed.metrics, memory)

    def forward(self, net: Network, frames: jax.Array, batch: Batch, keys: Keys) -> Computed:
        """The step on normalised frames `[B, T, H, W, 3]`. Shows "logits" `[B, O]`."""
        clips = encode_frames(net, frames, batch, self.num_clips, keys["video"])
        pairs, options, length = batch["text_ids"].shape
        ids = batch["text_ids"].reshape(pairs * options, length)
        mask = batch["text_mask"].reshape(pairs * options, length)
        repeated = jax.tree.map(lambda x: jnp.repeat(x, options, axis=0), clips)
        rows = repeated_rows(net.shard.rows(pairs), options)
        with_clips = packing(batch, more=clips.tokens.shape[1] + 1)
        pooled = cross_pooled(net, repeated, ids, mask, keys["cross"], rows, packing=with_clips)
        logits = net.match(pooled, key=keys["match"], rows=rows).reshape(pairs, options)
        scored = matching.choice_loss(logits, batch["label"], batch["valid"])
        return Computed({"choice": scored["loss"]}, {"accuracy": scored["accuracy"]}, {"logits": logits})


def embed_raw(
    net: Network, keys: Keys, numbers: Callable[[jax.Array], jax.Array], ids: jax.Array, mask: jax.Array, places: jax.Array
) -> CrossInputs:
    """What `Network.raw_caption` gives for captions that stand at `places`, which the text branch embedded with `numbers`."""
    if net.model.config.cross_layers:
        return net.caption_inputs(ids, mask, key=keys["caption"], rows=net.shard.numbers(places))
    return net.caption_inputs(ids, mask, key=keys["text"], rows=numbers(places))


def repeated_rows(rows: jax.Array, count: int) -> jax.Array:
    """Numbers of rows that are repeated `count` times each (as `jnp.repeat` does), all different: uint32 `[R * count]`."""
    return (rows[:, None] * jnp.uint32(count) + jnp.arange(count, dtype=jnp.uint32)).reshape(-1)


def packing(batch: Batch, *, copies: int = 1, more: int = 0) -> Packing | None:
    """`packing_of` the batch's texts (those of a choice one by one), or None where the batch says nothing of it."""
    if TEXT_PLACES not in batch:
        return None
    *rows, length = batch["text_mask"].shape
    return packing_of(batch[TEXT_PLACES], (math.prod(rows), length), copies=copies, more=more)


def cross_pooled(
    net: Network,
    clips: Clips,
    ids: jax.Array,
    mask: jax.Array,
    key: jax.Array | None,
    rows: jax.Array | None = None,
    *,
    packing: Packing | None = None,
) -> jax.Array:
    """Pooled cross-branch output of text i with video i, `[B, D]`; `rows` and `packing` as in `Network`."""
    keys = (None,) * 3 if key is None else jax.random.split(key, 3)
    caption = net.caption_inputs(ids, mask, key=keys[0], rows=rows)
    videos = net.clip_inputs(clips.tokens, clips.mask, key=keys[1], rows=rows)
    return net.cross_pooled(caption, videos, packing=packing, key=keys[2], rows=rows)
