"""The input pipeline: one Grain chain from prepared datasets to batches of arrays on the host.

    order (which video, which size) -> decode + text -> this host's share -> threads or workers -> batch

Everything random comes from Grain's generator for the position in the stream, and batches are put together in
the main process, so the stream depends on the seed and the data alone: not on the number of workers, threads
or hosts. What is done at each step lives elsewhere (`mixture`, `order`, `decode`, `sampling`, `tasks`); `stream`
runs the chain.
No device is touched here: normalisation and augmentation happen in the jitted step (`augment`).

A batch is a dict: video uint8 [B, T, H, W, 3]; video_mask bool [B, T]; valid bool [B]; where pictures keep their aspect
ratio, frame_size int32 [B, 2] = (h, w) of the picture in the top left corner, zeros around it; the arrays of the
task's text; and for the host only video_id and failure, str [B] ('' = fine, else "kind: detail"). T =
num_clips * frames_per_clip. An image is a video of one frame.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np
from tqdm import tqdm

from snp_jax.data import decode, order, sampling
from snp_jax.data.mixture import Mixture, open_mixture
from snp_jax.data.order import Buckets, Place, Size
from snp_jax.data.records import Annotation
from snp_jax.data.sources.picture_sizes import read_sizes
from snp_jax.data.sources.prepared import VideoSource, open_source
from snp_jax.data.stream import BatchStream, Reading, Share
from snp_jax.data.watch import Watch, WatchKeeper
from snp_jax.errors import UserError

__all__ = [
    "ClipSpec",
    "Reading",
    "TextTask",
    "eval_batches",
    "open_mixture",
    "open_source",
    "read_annotations",
    "steps_per_epoch",
    "train_batches",
]

PADDING_INDEX = order.PADDING_ROW
FITS = ("stretch", "pad")
_PATIENCE, _PATIENCE_S = 2, 5.0  # a decoder that has not returned after twice its budget and this is stuck


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """What is taken from a video: N clips of F frames, and their size.

    Attributes:
        num_clips: N.
        image_size: (H, W) of a batch.
        frames_per_clip: F.
        decode_budget_s: time per video.
        fit: "stretch" pictures to (H, W), or keep their aspect ratio and "pad" them.
        buckets: with "pad", sizes that batches may have instead of `image_size`; the videos of a batch share one.
        crop_size: what the device cuts out of every frame for the network (`augment`); empty = the network sees all.
        mask_repeats: an image fills its middle clip alone; the others repeat it, but count as padding. Otherwise they count.
        exclusive_segments: frames are chosen as in the authors' release, one a clip (`sampling.ExclusiveSegments`).

    Raises:
        ValueError: parts do not fit together.
    """

    num_clips: int
    image_size: Size
    frames_per_clip: int = 1
    decode_budget_s: float = 30.0
    fit: str = "stretch"
    buckets: tuple[Size, ...] = ()
    crop_size: Size | tuple[()] = ()
    mask_repeats: bool = False
    exclusive_segments: bool = False

    def __post_init__(self):
        if self.exclusive_segments and self.frames_per_clip != 1:
            raise ValueError(f"exclusive segments give one frame a clip, not {self.frames_per_clip}")
        if self.fit not in FITS:
            raise ValueError(f"fit={self.fit!r} must be one of {', '.join(FITS)}")
        if self.buckets and self.fit != "pad":
            raise ValueError('buckets are for frames that keep their aspect ratio: they need fit="pad"')

    @property
    def num_frames(self) -> int:
        """T = N * F."""
        return self.num_clips * self.frames_per_clip

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(H, W) that batches may have."""
        return self.buckets or (self.image_size,)

    @property
    def network_size(self) -> Size:
        """(H, W) of a frame as the network sees it; one of several with buckets."""
        return self.crop_size or self.sizes[0]

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


def steps_per_epoch(source: VideoSource | Mixture, batch_size: int, shard_count: int = 1) -> int:
    """Steps until as many videos were seen as there are, with `batch_size` rows on each of `shard_count` hosts."""
    return -(-len(source) // (batch_size * shard_count))


def train_batches(
    source: VideoSource | Mixture,
    *,
    spec: ClipSpec,
    text: TextTask,
    batch_size: int,
    seed: int,
    reading: Reading,
    rows: Sequence[int] | None = None,
) -> BatchStream:
    """Endless training batches, reshuffled every epoch; epochs follow each other without a gap.

    Args:
        source: the split, or a mixture of several.
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
    mixture = source if isinstance(source, Mixture) else Mixture([source])
    for part in mixture.sources:
        _check_text(part, text)
    places, identity = order.training_rows(mixture, seed), {"seed": seed, "videos": len(mixture)}
    if spec.buckets:
        buckets = _buckets(mixture, spec)
        bucketed = order.BucketedOrder(places, buckets, batch_size, seed)
        places = grain.MapDataset.source(bucketed).seed(seed)
        identity |= {"buckets": zlib.crc32(repr((spec.buckets, batch_size)).encode() + buckets.of_row.tobytes())}
    if len(mixture.sources) > 1:
        parts = [(len(part), share) for part, share in zip(mixture.sources, mixture.shares, strict=True)]
        identity |= {"mixture": zlib.crc32(repr(parts).encode())}
    share = Share(tuple(range(batch_size) if rows is None else rows), batch_size)
    keeper = WatchKeeper()
    examples = places.random_map(
        functools.partial(_training_example, mixture=mixture, spec=spec, text=text, watch=keeper.watch)
    )
    return BatchStream(examples, share, reading, identity=identity, keeper=keeper)


def eval_batches(
    source: VideoSource,
    *,
    spec: ClipSpec,
    batch_size: int,
    reading: Reading,
    shard: tuple[int, int] = (0, 1),
    rows: Sequence[int] | None = None,
) -> BatchStream:
    """All videos once, the middle frame of every segment: in storage order, with buckets one bucket after the other.

    Args:
        source, spec, reading: as in `train_batches`.
        batch_size: rows per batch ON THIS HOST.
        shard: (index, count) of this host, which reads videos index, index + count, ... Every host gets the same number of
            batches.
        rows: read only these videos.

    Returns:
        A finite iterator of batches with `index` int32 [B], the row of `read_annotations`, and without text.
        Rows that fill up the last batch (of a bucket) have index -1, valid False and empty `video_id` and `failure`.
    """
    index, count = shard
    mixture = Mixture([source])
    places = order.evaluation_places(_buckets(mixture, spec), batch_size * count, rows)
    keeper = WatchKeeper()
    examples = grain.MapDataset.source(places).map(
        functools.partial(_evaluation_example, source=mixture, spec=spec, watch=keeper.watch)
    )
    share = Share(tuple(range(index, batch_size * count, count)), batch_size * count)
    identity = {"videos": len(source)}
    return BatchStream(examples, share, reading, identity=identity, keeper=keeper)


def _buckets(mixture: Mixture, spec: ClipSpec) -> Buckets:
    if not spec.buckets:
        return Buckets((spec.image_size,), np.zeros(len(mixture), np.uint8))
    sizes = np.concatenate([read_sizes(part) for part in mixture.sources])
    return Buckets(spec.buckets, order.bucket_of(sizes, spec.buckets))


def _training_example(
    place: int | Place, rng: np.random.Generator, *, mixture: Mixture, spec: ClipSpec, text: TextTask, watch: Watch
) -> dict[str, Any]:
    """`place` is a row alone where all batches have one size."""
    place = place if isinstance(place, Place) else Place(int(place), spec.image_size, spec.image_size)
    record = mixture[place.row]
    words = text(record.annotation, rng)  # before the frames, which draw more or fewer numbers
    choice = spec.choice(sampling.random_offsets(rng, spec.num_clips))
    return {**_decoded(record, choice, place, spec, watch), **words}


def _evaluation_example(place: Place, *, source: Mixture, spec: ClipSpec, watch: Watch) -> dict[str, Any]:
    if place.row == PADDING_INDEX:
        return {**_blank(place.canvas, spec), "video_id": "", "failure": "", "index": np.int32(PADDING_INDEX)}
    choice = spec.choice(sampling.middle_offsets(spec.num_clips))
    return {**_decoded(source[place.row], choice, place, spec, watch), "index": np.int32(place.row)}


def _decoded(record: Any, choice: decode.FrameChoice, place: Place, spec: ClipSpec, watch: Watch) -> dict[str, Any]:
    """The video part of an example; a broken video is all zeros, masked, with the reason in `failure`."""
    annotation = record.annotation
    counted = 0

    def choose(count: int) -> np.ndarray:
        nonlocal counted
        counted = count
        return choice(count)

    try:
        with watch.decoding(annotation.video_id, _PATIENCE * spec.decode_budget_s + _PATIENCE_S):
            frames = decode.decode_clip(
                record.video,
                choose,
                place.box,
                keep_aspect=spec.fit == "pad",
                start=annotation.start,
                end=annotation.end,
                limits=decode.Limits(budget_s=spec.decode_budget_s),
            )
    except decode.VideoError as error:
        return {**_blank(place.canvas, spec), "video_id": annotation.video_id, "failure": str(error)}
    example: dict[str, Any] = {"video": frames}
    if spec.fit == "pad":
        example = _blank(place.canvas, spec)
        height, width = frames.shape[1:3]
        example["video"][:, :height, :width] = frames
        example["frame_size"][:] = height, width
    clips = np.ones((spec.num_clips, spec.frames_per_clip), bool)
    if counted == 1 and spec.mask_repeats:
        clips[:] = np.arange(spec.num_clips)[:, None] == spec.num_clips // 2
    return {**example, "video_mask": clips.reshape(-1), "valid": np.True_, "video_id": annotation.video_id, "failure": ""}


def _blank(canvas: Size, spec: ClipSpec) -> dict[str, Any]:
    blank = {
        "video": np.zeros((spec.num_frames, *canvas, 3), np.uint8),
        "video_mask": np.zeros(spec.num_frames, bool),
        "valid": np.False_,
    }
    return blank | {"frame_size": np.array(canvas, np.int32)} if spec.fit == "pad" else blank


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
