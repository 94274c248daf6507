"""The input pipeline: one Grain chain from a prepared dataset to batches of arrays on the host.

    source -> seed, shuffle, repeat -> decode + text -> this host's share -> threads or workers -> batch

Everything random comes from Grain's generator for the position in the stream, and batches are put together in
the main process, so the stream depends on the seed and the data alone: not on the number of workers, threads
or hosts. What is done at each step lives elsewhere (`decode`, `sampling`, `tasks`); `stream` runs the chain.
No device is touched here: normalisation and augmentation happen in the jitted step (`augment`).

A batch is a dict: video uint8 [B, T, H, W, 3]; video_mask bool [B, T]; valid bool [B]; the arrays of the
task's text; and for the host only video_id and failure, str [B] ('' = fine, else "kind: detail"). T =
num_clips * frames_per_clip.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np
from tqdm import tqdm

from snp_jax.data import decode, sampling
from snp_jax.data.records import Annotation
from snp_jax.data.sources.prepared import Record, VideoSource, open_source
from snp_jax.data.stream import BatchStream, Reading, Share
from snp_jax.data.watch import Watch, WatchKeeper
from snp_jax.errors import UserError

__all__ = [
    "ClipSpec",
    "Reading",
    "TextTask",
    "eval_batches",
    "open_source",
    "read_annotations",
    "steps_per_epoch",
    "train_batches",
]

PADDING_INDEX = -1
_PATIENCE, _PATIENCE_S = 2, 5.0  # a decoder that has not returned after twice its budget and this is stuck


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """What is taken from a video: N clips of F frames at (H, W) pixels, within a time budget per video.

    With `exclusive_segments` the frames are chosen as in the authors' release, one a clip (`sampling.ExclusiveSegments`).

    Raises:
        ValueError: several frames a clip from exclusive segments.
    """

    num_clips: int
    image_size: tuple[int, int]
    frames_per_clip: int = 1
    decode_budget_s: float = 30.0
    exclusive_segments: bool = False

    def __post_init__(self):
        if self.exclusive_segments and self.frames_per_clip != 1:
            raise ValueError(f"exclusive segments give one frame a clip, not {self.frames_per_clip}")

    @property
    def num_frames(self) -> int:
        """T = N * F."""
        return self.num_clips * self.frames_per_clip

    def choice(self, offsets: tuple[float, ...]) -> decode.FrameChoice:
        """The frames at these positions inside the N segments (`sampling.middle_offsets`, `sampling.random_offsets`)."""
        if self.exclusive_segments:
            return sampling.ExclusiveSegments(offsets).indices
        return sampling.SegmentSampling(offsets, self.frames_per_clip).indices


class TextTask(Protocol):
    """The text side of an example; see `tasks`. Must pickle."""

    needs: str

    def __call__(self, annotation: Annotation, rng: np.random.Generator) -> dict[str, np.ndarray]: ...


def read_annotations(source: VideoSource) -> list[Annotation]:
    """All annotations of a split in storage order: row i belongs to `index` i of `eval_batches`."""
    rows = tqdm(range(len(source)), desc=f"reading {source.split} annotations", leave=False, disable=None, delay=2)
    return [source[i].annotation for i in rows]


def steps_per_epoch(source: VideoSource, batch_size: int, shard_count: int = 1) -> int:
    """Steps until every video was seen once, with `batch_size` rows on each of `shard_count` hosts."""
    return -(-len(source) // (batch_size * shard_count))


def train_batches(
    source: VideoSource,
    *,
    spec: ClipSpec,
    text: TextTask,
    batch_size: int,
    seed: int,
    reading: Reading,
    rows: Sequence[int] | None = None,
) -> grain.DatasetIterator:
    """Endless training batches, reshuffled every epoch; epochs follow each other without a gap.

    Args:
        source: the split.
        spec: what is taken from each video; frames are drawn at random.
        text: what is said about it.
        batch_size: rows per batch, over all hosts.
        seed: fixes the order, the frames and the text.
        reading: threads, processes and buffers; does not change the stream.
        rows: those that this host reads of every batch (default all). Together the hosts read one global stream: step s
            has the same videos with the same frames in the same rows on any number of hosts.

    Returns:
        An iterator with `get_state`/`set_state` (JSON; exact, valid for any `reading`), which Orbax stores;
        `close` it.

    Raises:
        UserError: a video of the split lacks the text that the task needs.
    """
    _check_text(source, text)
    share = Share(tuple(range(batch_size) if rows is None else rows), batch_size)
    keeper = WatchKeeper()
    examples = (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(functools.partial(_training_example, spec=spec, text=text, watch=keeper.watch))
    )
    identity = {"seed": seed, "videos": len(source)}
    return BatchStream(examples, share, reading, identity=identity, keeper=keeper)


def eval_batches(
    source: VideoSource,
    *,
    spec: ClipSpec,
    batch_size: int,
    reading: Reading,
    shard: tuple[int, int] = (0, 1),
) -> grain.DatasetIterator:
    """All videos once, in storage order, the middle frame of every segment.

    Args:
        source, spec, reading: as in `train_batches`.
        batch_size: rows per batch ON THIS HOST.
        shard: (index, count) of this host, which reads videos index, index + count, ... Every host gets the same number of
            batches.

    Returns:
        A finite iterator of batches with `index` int32 [B], the row of `read_annotations`, and without text.
        Rows that fill up the last batch have index -1, valid False and empty `video_id` and `failure`.
    """
    index, count = shard
    batches = steps_per_epoch(source, batch_size, count)
    keeper = WatchKeeper()
    examples = grain.MapDataset.range(batches * batch_size * count).map(
        functools.partial(_evaluation_example, source=source, spec=spec, watch=keeper.watch)
    )
    share = Share(tuple(range(index, batch_size * count, count)), batch_size * count)
    identity = {"videos": len(source)}
    return BatchStream(examples, share, reading, identity=identity, keeper=keeper)


def _training_example(
    record: Record, rng: np.random.Generator, *, spec: ClipSpec, text: TextTask, watch: Watch
) -> dict[str, Any]:
    words = text(record.annotation, rng)  # before the frames, which draw more or fewer numbers
    choice = spec.choice(sampling.random_offsets(rng, spec.num_clips))
    return {**_decoded(record, choice, spec, watch), **words}


def _evaluation_example(index: int, *, source: VideoSource, spec: ClipSpec, watch: Watch) -> dict[str, Any]:
    if index >= len(source):
        return {**_blank(spec), "video_id": "", "failure": "", "index": np.int32(PADDING_INDEX)}
    choice = spec.choice(sampling.middle_offsets(spec.num_clips))
    return {**_decoded(source[index], choice, spec, watch), "index": np.int32(index)}


def _decoded(record: Record, choice: decode.FrameChoice, spec: ClipSpec, watch: Watch) -> dict[str, Any]:
    """The video part of an example; a broken video is all zeros, masked, with the reason in `failure`."""
    annotation = record.annotation
    try:
        with watch.decoding(annotation.video_id, _PATIENCE * spec.decode_budget_s + _PATIENCE_S):
            frames = decode.decode_clip(
                record.video,
                choice,
                spec.image_size,
                start=annotation.start,
                end=annotation.end,
                limits=decode.Limits(budget_s=spec.decode_budget_s),
            )
    except decode.VideoError as error:
        return {**_blank(spec), "video_id": annotation.video_id, "failure": str(error)}
    return {
        "video": frames,
        "video_mask": np.ones(spec.num_frames, bool),
        "valid": np.True_,
        "video_id": annotation.video_id,
        "failure": "",
    }


def _blank(spec: ClipSpec) -> dict[str, Any]:
    height, width = spec.image_size
    return {
        "video": np.zeros((spec.num_frames, height, width, 3), np.uint8),
        "video_mask": np.zeros(spec.num_frames, bool),
        "valid": np.False_,
    }


def _check_text(source: VideoSource, text: TextTask) -> None:
    """Every video has what the task needs, according to the counts made at preparation."""
    summary = source.summary
    have: Mapping[str, int] = {
        "captions": summary.with_captions,
        "questions": summary.with_questions,
        "choices": summary.choices,
    }
    lacking = summary.videos - have[text.needs]
    if lacking:
        raise UserError(
            f"{source.directory}: {lacking} of {summary.videos} videos of the {source.split} split have no "
            f"{text.needs}, which this task draws from; add them, or leave those videos out, "
            "and prepare the dataset again"
        )
