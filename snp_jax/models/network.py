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

from snp_jax.models.dropout import numbered_rows
from snp_jax.models.packing import Packing, packing_of
from snp_jax.models.shard import Shard
from snp_jax.models.snp import SNP, Clips, Cross, CrossInputs, Text


@dataclasses.dataclass(frozen=True)
class Network:
    """An `SNP` with parameters.

    Attributes:
        model: the module.
        params: its parameter tree.
        spread: constrains an array's leading axis to the devices' batch sharding (identity on one device).
        shard: which rows of the batch are here.

    Dropout is drawn by `rows`, the number of each input row (default: the batch's own rows).
    """

    model: SNP
    params: Any
    spread: Callable[[jax.Array], jax.Array] = lambda x: x
    shard: Shard = Shard()

    def _run(self, method: str, *args, key: jax.Array | None, rows: jax.Array | None = None, **kwargs):
        variables = {"params": self.params}
        if key is None:
            return self.model.apply(variables, *args, method=method, deterministic=True, **kwargs)
        rows = self.shard.rows(jax.tree.leaves(args)[0].shape[0]) if rows is None else rows
        with numbered_rows(rows):
            return self.model.apply(variables, *args, method=method, rngs={"dropout": key}, deterministic=False, **kwargs)

    def clips(self, frames, frame_mask, *, num_clips: int, pixel_mask=None, key=None) -> Clips:
        """`SNP.encode_video`."""
        return self._run("encode_video", frames, frame_mask, num_clips=num_clips, pixel_mask=pixel_mask, key=key)

    def tags(self, frames, frame_mask, *, num_clips: int, pixel_mask=None, key=None) -> jax.Array:
        """`Tagger.tag_logits`."""
        return self._run("tag_logits", frames, frame_mask, num_clips=num_clips, pixel_mask=pixel_mask, key=key)

    def text(self, ids, mask, *, packing: Packing | None = None, importance: bool = False, key=None, rows=None) -> Text:
        """`SNP.encode_text`."""
        return self._run("encode_text", ids, mask, packing=packing, importance=importance, key=key, rows=rows)

    def caption_inputs(self, ids, mask, *, key=None, rows=None) -> CrossInputs:
        """`SNP.embed_caption`."""
        return self._run("embed_caption", ids, mask, key=key, rows=rows)

    def raw_caption(self, text: Text, ids, mask, *, key=None) -> CrossInputs:
        """`caption_inputs` of a caption that the text branch has read; one embedding serves both where they share it."""
        if self.model.config.cross_layers:
            return self.caption_inputs(ids, mask, key=key)
        return CrossInputs(text.embedded, mask)

    def clip_inputs(self, tokens, mask, *, key=None, rows=None) -> CrossInputs:
        """`SNP.embed_clips`."""
        return self._run("embed_clips", tokens, mask, key=key, rows=rows)

    def cross(self, caption: CrossInputs, clips: CrossInputs, *, packing: Packing | None = None, key=None, rows=None) -> Cross:
        """`SNP.encode_cross` on pairs."""
        return self._run("encode_cross", caption, clips, packing=packing, key=key, rows=rows)

    def cross_pooled(
        self, caption: CrossInputs, clips: CrossInputs, *, packing: Packing | None = None, key=None, rows=None
    ) -> jax.Array:
        """`SNP.pool_cross` on pairs, `[B, D]`."""
        return self._run("pool_cross", caption, clips, packing=packing, key=key, rows=rows)

    def match(self, pooled, *, key=None, rows=None) -> jax.Array:
        """`SNP.match`."""
        return self._run("match", pooled, key=key, rows=rows)

    def order(self, clips, mask, *, key=None, rows=None) -> jax.Array:
        """`SNP.encode_order`."""
        return self._run("encode_order", clips, mask, key=key, rows=rows)

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
        rows: jax.Array | None = None,
    ) -> jax.Array:
        """Matching scores of a list of (caption, video) pairs, in chunks whose activations are recomputed backward.

        Memory is that of one chunk plus the embedded inputs, whatever the number of pairs.

        Args:
            captions: embedded captions `[B_text, L, D]`.
            clips: embedded videos `[B_video, N+1, D]`.
            text_index, video_index: int32 `[P]`, rows of `captions` and `clips`.
            chunk: pairs per cross-branch pass; P when 0 or larger than P.
            key, rows: of dropout, and the number of each pair (uint32 `[P]`; default 0, 1, 2, ...).

        Returns:
            float32 `[P]`.
        """
        pairs = text_index.shape[0]
        rows = jnp.arange(pairs, dtype=jnp.uint32) if rows is None else rows
        score = self._pair_score(captions, clips, None, key)
        return _in_chunks(score, (text_index, video_index, rows), min(chunk, pairs) or pairs)

    def all_scores(
        self,
        captions: CrossInputs,
        clips: CrossInputs,
        video_index: jax.Array,
        *,
        chunk: int,
        rows: jax.Array,
        key: jax.Array | None = None,
        places: jax.Array | None = None,
    ) -> jax.Array:
        """Matching scores of every caption with as many videos each; chunks as in `pair_scores`.

        Args:
            captions: embedded captions `[B_text, L, D]`.
            clips: embedded videos `[B_video, N+1, D]`.
            video_index: int32 `[B_text, s]`, rows of `clips`.
            chunk, key: as in `pair_scores`.
            rows: the number of each pair, uint32 `[B_text, s]`, for dropout.
            places: int32 `[C]`, where the real tokens of the captions stand (`packing.packing_of`): their padding is left out
                then, unless a chunk is too small for a pair of each caption.

        Returns:
            float32 `[B_text, s]`.
        """
        texts, count = video_index.shape
        columns = min(chunk or texts * count, texts * count) // texts
        if places is None or columns == 0:
            text_index = jnp.repeat(jnp.arange(texts, dtype=jnp.int32), count)
            return self.pair_scores(
                captions, clips, text_index, video_index.reshape(-1), chunk=chunk, key=key, rows=rows.reshape(-1)
            ).reshape(texts, count)
        # Column by column, so that every chunk has each caption equally often, and so room for the same number of tokens.
        packing = packing_of(places, captions.mask.shape, copies=columns, more=clips.mask.shape[1])
        score = self._pair_score(captions, clips, packing, key)
        columns_of = -(-count // columns) * columns
        text_index = jnp.tile(jnp.arange(texts, dtype=jnp.int32), columns_of)
        video_index, rows = (jnp.pad(x.T, ((0, columns_of - count), (0, 0))).reshape(-1) for x in (video_index, rows))
        scores = _in_chunks(score, (text_index, video_index, rows), columns * texts)
        return scores.reshape(columns_of, texts)[:count].T

    def _pair_score(self, captions: CrossInputs, clips: CrossInputs, packing: Packing | None, key: jax.Array | None):
        """A function of (rows of `captions`, rows of `clips`, numbers), `[P]` each, that scores the pairs."""
        keys = (None, None) if key is None else jax.random.split(key)

        def score(indices: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            text, video, numbers = indices
            caption = CrossInputs(self.spread(captions.embedded[text]), captions.mask[text])
            video_part = CrossInputs(self.spread(clips.embedded[video]), clips.mask[video])
            pooled = self.cross_pooled(caption, video_part, packing=packing, key=keys[0], rows=numbers)
            return self.match(pooled, key=keys[1], rows=numbers)

        return score


def _in_chunks(score: Callable[[tuple], jax.Array], indices: tuple[jax.Array, ...], chunk: int) -> jax.Array:
    """`score(indices)` of arrays `[P]`, `chunk` at a time; with several chunks each is recomputed backward."""
    pairs = indices[0].shape[0]
    chunks = -(-pairs // chunk)
    if chunks == 1:
        return score(indices)
    padding = (0, chunks * chunk - pairs)
    parts = tuple(jnp.pad(index, padding).reshape(chunks, chunk) for index in indices)
    return jax.lax.map(jax.checkpoint(score), parts).reshape(-1)[:pairs]
