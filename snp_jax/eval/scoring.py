"""Device passes of evaluation: videos and texts to features, pairs to scores. Numbers are made in `metrics`.

Each video is decoded and encoded once, whatever the number of texts it is scored against.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from snp_jax.data import augment
from snp_jax.data.text import Tokenizer
from snp_jax.models.network import Network
from snp_jax.models.snp import SNP

DEVICE_KEYS = ("video", "video_mask", "frame_size")
"""Parts of a batch that the visual branch reads."""


@dataclasses.dataclass(frozen=True)
class EncodedVideos:
    """V videos in dataset order.

    Attributes:
        ids: V names.
        tokens, features: float32 `[V, N, D]`, input of the cross branch and unit-norm clip features.
        mask: bool `[V, N]`.
        valid: bool `[V]`, False where the video could not be decoded.
        failures: reason by name of those that could not.
    """

    ids: tuple[str, ...]
    tokens: np.ndarray
    features: np.ndarray
    mask: np.ndarray
    valid: np.ndarray
    failures: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class EncodedTexts:
    """Q texts: `ids` int32 `[Q, L]`, `mask` bool `[Q, L]`, unit-norm `features` float32 `[Q, D]`."""

    ids: np.ndarray
    mask: np.ndarray
    features: np.ndarray


class Scorer:
    """Runs a trained network over a test split.

    Args:
        num_clips: N.
        batch_size: videos or texts a pass.
        chunk: pairs a cross-branch pass.
        changes: what is done to frames on the device; only what is not random (crop, padding mask).

    Attributes:
        passes: the compiled functions by name, "videos", "texts" and "pairs", for compilation ahead of time.
    """

    def __init__(
        self, model: SNP, params: Any, *, num_clips: int, batch_size: int, chunk: int, changes: augment.AugmentOptions
    ):
        self._params = params
        self._batch_size = batch_size
        self._chunk = chunk

        @jax.jit
        def encode_video(params, batch):
            batch = augment.evaluation_batch(batch, changes)
            frames = augment.network_frames(batch, model.dtype)
            mask = batch.get("pixel_mask")
            return Network(model, params).clips(frames, batch["video_mask"], num_clips=num_clips, pixel_mask=mask)

        @jax.jit
        def encode_text(params, ids, mask):
            return Network(model, params).text(ids, mask)

        @partial(jax.jit, static_argnames="head")
        def score(params, ids, mask, tokens, clip_mask, head):
            net = Network(model, params)
            pooled = net.cross_pooled(net.caption_inputs(ids, mask), net.clip_inputs(tokens, clip_mask))
            return net.match(pooled) if head == "match" else net.head("answer_logits", pooled)

        self._encode_video, self._encode_text, self._score = encode_video, encode_text, score
        self.passes = {"videos": encode_video, "texts": encode_text, "pairs": score}

    def videos(self, batches: Iterable[Mapping[str, np.ndarray]], total: int) -> EncodedVideos:
        """Encodes the batches of `pipeline.eval_batches` without their padding rows; `total` sizes the progress bar."""
        parts, names, rows, failures = [], [], [], {}
        with tqdm(total=total, desc="videos", unit="video", dynamic_ncols=True) as bar:
            for batch in batches:
                arrays = {name: batch[name] for name in DEVICE_KEYS if name in batch}
                clips = jax.device_get(self._encode_video(self._params, arrays))
                real = batch["index"] >= 0
                rows.append(batch["index"][real])
                parts.append([x[real] for x in (*clips, batch["valid"])])
                names += [str(name) for name in batch["video_id"][real]]
                failures |= {
                    str(name): str(reason)
                    for name, reason in zip(batch["video_id"][real], batch["failure"][real], strict=True)
                    if reason
                }
                bar.update(int(real.sum()))
        order = np.argsort(np.concatenate(rows))  # batches may come bucket by bucket
        tokens, features, mask, valid = (np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True))
        return EncodedVideos(tuple(names[row] for row in order), tokens.astype(np.float32), features, mask, valid, failures)

    def texts(self, texts: list[str], tokenizer: Tokenizer, max_len: int) -> EncodedTexts:
        """Tokenises and encodes texts; one longer than `max_len` keeps its first tokens."""
        ids, mask = encode_all(texts, tokenizer, max_len)
        features = [
            np.asarray(self._encode_text(self._params, ids[rows], mask[rows]).feature)
            for rows in self._rows(len(texts), self._batch_size)
        ]
        return EncodedTexts(ids, mask, np.concatenate(features)[: len(texts)])

    def hidden_states(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Last hidden states of the text branch, float32 `[Q, L, D]`, of a few texts (all in one pass)."""
        return np.asarray(self._encode_text(self._params, ids, mask).sequence, np.float32)

    def pairs(
        self, ids: np.ndarray, mask: np.ndarray, videos: EncodedVideos, text_index: np.ndarray, video_index: np.ndarray,
        head: str = "match",
    ) -> np.ndarray:  # fmt: skip
        """Cross-branch outputs of P pairs (text row, video row).

        Args:
            head: "match" -> matching scores float32 `[P]`; "answer" -> logits float32 `[P, answers]`.
        """
        if not len(text_index):  # no decodable video
            return np.zeros(0, np.float32)
        outputs = []
        rows = self._rows(len(text_index), self._chunk)
        for part in tqdm(rows, desc="pairs", unit=f"x{self._chunk}", dynamic_ncols=True, leave=False):
            text, video = text_index[part], video_index[part]
            outputs.append(
                np.asarray(self._score(self._params, ids[text], mask[text], videos.tokens[video], videos.mask[video], head))
            )
        return np.concatenate(outputs)[: len(text_index)]

    @staticmethod
    def _rows(count: int, size: int) -> list[np.ndarray]:
        """Row numbers in chunks of one size (the last repeats row 0), so that each pass compiles once."""
        size = min(size, count)
        padded = np.zeros(-(-count // size) * size, np.int64)
        padded[:count] = np.arange(count)
        return list(padded.reshape(-1, size))


def encode_all(texts: list[str], tokenizer: Tokenizer, max_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids int32 `[Q, L]` and mask bool `[Q, L]` of texts."""
    encoded = [tokenizer.encode(text, max_len) for text in texts]
    return np.stack([ids for ids, _ in encoded]), np.stack([mask for _, mask in encoded])


def stage1_matrix(texts: EncodedTexts, videos: EncodedVideos) -> np.ndarray:
    """Stage-1 scores float32 `[Q, V]`: log-sum-exp over clips of feature dot products; -inf for undecodable videos."""
    scores = np.einsum("qd,vnd->qvn", texts.features, videos.features)
    scores = np.where(videos.mask[None], scores, -np.inf)
    top = np.max(scores, axis=-1, keepdims=True, initial=-1e30)
    pooled = np.log(np.exp(scores - top).sum(axis=-1)) + top[..., 0]
    return np.where(videos.valid[None], pooled, -np.inf).astype(np.float32)
