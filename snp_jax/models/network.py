"""A model with its parameters: what training tasks and evaluation call.

Owns the two rules they share: which pairs run through the cross branch in which chunks, and that dropout is on exactly where a
key is given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from snp_jax.models.snp import SNP, Clips, Cross, CrossInputs, Text


@dataclasses.dataclass(frozen=True)
class Network:
    """An `SNP` with parameters.

    Attributes:
        model: the module.
        params: its parameter tree.
        spread: constrains an array's leading axis to the devices' batch sharding (identity on one device).
    """

    model: SNP
    params: Any
    spread: Callable[[jax.Array], jax.Array] = lambda x: x

    def _run(self, method: str, *args, key: jax.Array | None, **kwargs):
        rngs = {} if key is None else {"dropout": key}
        variables = {"params": self.params}
        return self.model.apply(variables, *args, method=method, rngs=rngs, deterministic=key is None, **kwargs)

    def clips(self, frames, frame_mask, *, num_clips: int, pixel_mask=None, key=None) -> Clips:
        """`SNP.encode_video`."""
        return self._run("encode_video", frames, frame_mask, num_clips=num_clips, pixel_mask=pixel_mask, key=key)

    def text(self, ids, mask, *, key=None) -> Text:
        """`SNP.encode_text`."""
        return self._run("encode_text", ids, mask, key=key)

    def caption_inputs(self, ids, mask, *, key=None) -> CrossInputs:
        """`SNP.embed_caption`."""
        return self._run("embed_caption", ids, mask, key=key)

    def raw_caption(self, text: Text, ids, mask, *, key=None) -> CrossInputs:
        """`caption_inputs` of a caption that the text branch has read; one embedding serves both where they share it."""
        if self.model.config.cross_layers:
            return self.caption_inputs(ids, mask, key=key)
        return CrossInputs(text.embedded, mask)

    def clip_inputs(self, tokens, mask, *, key=None) -> CrossInputs:
        """`SNP.embed_clips`."""
        return self._run("embed_clips", tokens, mask, key=key)

    def cross(self, caption: CrossInputs, clips: CrossInputs, *, key=None) -> Cross:
        """`SNP.encode_cross` on pairs."""
        return self._run("encode_cross", caption, clips, key=key)

    def cross_pooled(self, caption: CrossInputs, clips: CrossInputs, *, key=None) -> jax.Array:
        """`SNP.pool_cross` on pairs, `[B, D]`."""
        return self._run("pool_cross", caption, clips, key=key)

    def match(self, pooled, *, key=None) -> jax.Array:
        """`SNP.match`."""
        return self._run("match", pooled, key=key)

    def order(self, clips, mask, *, key=None) -> jax.Array:
        """`SNP.encode_order`."""
        return self._run("encode_order", clips, mask, key=key)

    def head(self, name: str, x: jax.Array) -> jax.Array:
        """A head without dropout: "text_word_logits", "cross_word_logits", "answer_logits", "itm_logits" or "order_logits"."""
        return self.model.apply({"params": self.params}, x, method=name)

    def pair_scores(
        self,
        captions: CrossInputs,
        clips: CrossInputs,
        text_index: jax.Array,
        video_index: jax.Array,
        *,
        chunk: int,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Matching scores of a list of (caption, video) pairs, in chunks whose activations are recomputed backward.

        Memory is that of one chunk plus the embedded inputs, whatever the number of pairs.

        Args:
            captions: embedded captions `[B_text, L, D]`.
            clips: embedded videos `[B_video, N+1, D]`.
            text_index, video_index: int32 `[P]`, rows of `captions` and `clips`.
            chunk: pairs per cross-branch pass; P when 0 or larger than P.

        Returns:
            float32 `[P]`.
        """
        pairs = text_index.shape[0]
        chunk = min(chunk, pairs) or pairs
        chunks = -(-pairs // chunk)

        def score(indices: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            text, video, number = indices
            keys = (None, None) if key is None else jax.random.split(jax.random.fold_in(key, number))
            caption = CrossInputs(self.spread(captions.embedded[text]), captions.mask[text])
            video_part = CrossInputs(self.spread(clips.embedded[video]), clips.mask[video])
            pooled = self.cross_pooled(caption, video_part, key=keys[0])
            return self.match(pooled, key=keys[1])

        if chunks == 1:
            return score((text_index, video_index, jnp.int32(0)))
        padding = (0, chunks * chunk - pairs)
        rows = tuple(jnp.pad(index, padding).reshape(chunks, chunk) for index in (text_index, video_index))
        scores = jax.lax.map(jax.checkpoint(score), (*rows, jnp.arange(chunks)))
        return scores.reshape(-1)[:pairs]
