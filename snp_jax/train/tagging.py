"""The task that trains the visual encoder alone, on words of captions; `models/tagger.py` says what for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from snp_jax.models.network import Network
from snp_jax.objectives import masking, tagging
from snp_jax.train.tasks import Batch, Outcome, Task, frames_of


@dataclasses.dataclass(frozen=True)
class TaggingTask(Task):
    """Tags are words of the batch's captions.

    Attributes:
        tags: bool `[V]`, the words that can be one.
        by_rarity: a word weighs the more, the fewer videos have it (`tagging.rarity`); for words that nobody has selected.
    """

    num_clips: int
    tags: jax.Array
    by_rarity: bool
    special_ids: tuple[int, ...]
    weights: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"tagging": 1.0})

    def compute(self, net: Network, batch: Batch, key: jax.Array, *, train: bool, memory: Any) -> Outcome:
        """The loss `tagging` and its precision; `key` is that of drop path."""
        ids = batch["text_ids"]
        wanted = masking.special_free(ids, batch["text_mask"], self.special_ids) & self.tags[ids]
        logits = net.tags(
            frames_of(net, batch), batch["video_mask"], num_clips=self.num_clips, pixel_mask=batch.get("pixel_mask"),
            key=key if train else None,
        )  # fmt: skip
        tags, valid = tagging.caption_tags(ids, wanted, logits.shape[1]), batch["valid"]
        weight = tagging.rarity(tags, valid, net.shard.total) if self.by_rarity else jnp.ones(tags.shape[1])
        scored = tagging.tag_loss(logits, tags, valid, weight)
        return Outcome({"tagging": scored["loss"]}, {"precision": scored["precision"]}, memory)
