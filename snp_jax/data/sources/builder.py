"""Writes annotated videos as a TFDS dataset of ArrayRecord files, without TensorFlow, and opens it again.

A prepared dataset is one directory: TFDS's own files plus `prepared.json` (what was counted, and a
fingerprint of the input). It is built beside its final place and renamed when complete, so a directory with
that name is always whole. Which videos and annotations there are is up to the other modules of this package;
what is done with an open source is `pipeline`'s business.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from snp_jax.data.records import Annotation, from_example, to_example
from snp_jax.errors import UserError

PREPARED_FILE = "prepared.json"
VIDEOS_PER_SHARD = 1000
_SHUFFLE_SEED = 0


@dataclasses.dataclass(frozen=True)
class StoredVideo:
    """A video that goes into a dataset: what is known about it, and its file."""

    annotation: Annotation
    path: Path


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """What a split holds. `unreadable` files have no video stream; they are stored, and masked later."""

    videos: int
    captions: int
    questions: int
    choices: int
    with_captions: int
    with_questions: int
    seconds: float
    unreadable: int
    bytes: int


class Record:
    """One stored video: `annotation` and the encoded `video` bytes."""

    __slots__ = ("annotation", "video")

    def __init__(self, annotation: Annotation, video: bytes):
        self.annotation = annotation
        self.video = video


class VideoSource:
    """A split of a prepared dataset with random access: `source[i]` is a `Record`. Pickles, for workers."""

    def __init__(self, directory: str, split: str, summary: SplitSummary, data_source: Any):
        self.directory = directory
        self.split = split
        self.summary = summary
        self._data_source = data_source

    def __len__(self) -> int:
        return len(self._data_source)

    def __getitem__(self, index: int) -> Record:
        example = self._data_source[index]
        return Record(from_example(example), bytes(example["video"]))

    def __repr__(self) -> str:
        return f"VideoSource({self.directory!r}, split={self.split!r}, videos={len(self)})"


def features() -> tfds.features.FeaturesDict:
    """Layout of a stored example; `records.to_example` fills it."""
    text = tfds.features.Text
    sequence = tfds.features.Sequence
    return tfds.features.FeaturesDict(
        {
            "video": tfds.features.Tensor(shape=(), dtype=np.bytes_),
            "video_id": text(),
            "captions": sequence(text()),
            "start": np.float32,
            "end": np.float32,
            "questions": sequence({"question": text(), "answer": text(), "kind": text()}),
            "options": sequence(text()),
            "option_answer": np.int32,
            "fits": sequence({"caption": np.int32, "video_id": text()}),
        }
    )


class VideoTextBuilder(tfds.core.ShardBasedBuilder):
    """Stores given videos, shard by shard: TFDS's other builders need TensorFlow above 1 GB per split."""

    name = "video_text"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, splits: Mapping[str, Sequence[StoredVideo]], progress: Callable[[], None], **kwargs: Any):
        self._stored_splits = splits
        self._progress = progress
        super().__init__(**kwargs, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=features())

    def _shard_iterators_per_split(self, dl_manager: object) -> dict[str, list[Callable[[], Iterator]]]:
        del dl_manager  # nothing is downloaded
        shards = {}
        for split, videos in self._stored_splits.items():
            # Neighbours in a file are often alike (cut from one film); mixed here so that reading in order is
            # not biased.
            order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(videos))
            count = -(-len(videos) // VIDEOS_PER_SHARD)
            shards[split] = [functools.partial(self._examples, [videos[i] for i in order[k::count]]) for k in range(count)]
        return shards

    def _examples(self, videos: Sequence[StoredVideo]) -> Iterator[tuple[str, dict[str, Any]]]:
        for stored in videos:
            try:
                data = stored.path.read_bytes()
            except OSError as error:
                raise UserError(f"{stored.path}: cannot be read ({error.strerror}); check the file and run again") from error
            yield stored.annotation.video_id, to_example(stored.annotation, data)
            self._progress()


def write_dataset(
    splits: Mapping[str, Sequence[StoredVideo]],
    summaries: Mapping[str, SplitSummary],
    out: str | Path,
    *,
    fingerprint: str,
    progress: Callable[[], None],
) -> None:
    """Writes a prepared dataset to `out`, all or nothing.

    Args:
        splits: the videos of each split.
        summaries: what to record about each split.
        out: a directory that does not exist yet.
        fingerprint: identifies the input; see `prepared_fingerprint`.
        progress: called after each video.

    Raises:
        UserError: `out` cannot be written.
    """
    out = Path(out)
    partial = out.with_name(f".{out.name}.part")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed preparation left behind
    try:
        partial.mkdir(parents=True)
        builder = VideoTextBuilder(splits=splits, progress=progress, data_dir=str(partial))
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download of unknown size
            builder.download_and_prepare()
        built = Path(builder.data_dir)
        prepared = {
            "fingerprint": fingerprint,
            "splits": {split: dataclasses.asdict(summary) for split, summary in summaries.items()},
        }
        (built / PREPARED_FILE).write_text(json.dumps(prepared, indent=2) + "\n", encoding="utf-8")
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        os.rename(built, out)
    except (OSError, RuntimeError) as error:  # ArrayRecord reports a full disk as a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        raise UserError(f"{out}: the dataset cannot be written ({reason}); free some space or choose another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def prepared_fingerprint(directory: str | Path) -> str | None:
    """The fingerprint that a prepared dataset was written with; None if nothing is there yet.

    Raises:
        UserError: something else is there.
    """
    directory = Path(directory)
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return None
    return _read_prepared(directory)["fingerprint"]


def read_summaries(directory: str | Path) -> dict[str, SplitSummary]:
    """What `prepared.json` says about every split.

    Raises:
        UserError: `directory` is not a prepared dataset.
    """
    return {split: SplitSummary(**summary) for split, summary in _read_prepared(Path(directory))["splits"].items()}


def open_source(dataset_dir: str | Path, split: str) -> VideoSource:
    """Opens a split of a prepared dataset.

    Raises:
        UserError: the directory is missing or was not made by tools/prepare.py, or has no such split.
    """
    summaries = read_summaries(dataset_dir)
    if split not in summaries:
        raise UserError(f'{dataset_dir}: the dataset has no split "{split}"; it has {", ".join(summaries)}')
    builder = tfds.builder_from_directory(str(dataset_dir))
    return VideoSource(str(dataset_dir), split, summaries[split], builder.as_data_source(split=split))


def _read_prepared(directory: Path) -> dict[str, Any]:
    path = directory / PREPARED_FILE
    if not directory.is_dir():
        raise UserError(f"{directory}: there is no dataset; write it with tools/prepare.py folder --data DIR --out {directory}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{directory}: not a prepared dataset ({PREPARED_FILE} is missing); give the --out of tools/prepare.py"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete the directory and prepare it again") from error
