"""Writes one shard: reads each file, looks whether it decodes, stores it; and counts what it holds.

Runs in a worker process (`workers`). A shard is complete when its counts lie beside it; both are written under another name
first, so that a kill at any moment leaves a shard that is complete or one that is done again. The same rows give the
same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from snp_jax.data import decode
from snp_jax.data.records import to_example
from snp_jax.data.sources.planning import Shard, read_rows
from snp_jax.data.sources.reencode import Encoding, reencode
from snp_jax.data.sources.rows import Row
from snp_jax.errors import UserError

COUNTS_SUFFIX = ".json"
PART_SUFFIX = ".part"
_STORAGE_OPTIONS = "group_size:1"  # every record can be read by itself; as TFDS writes it


@dataclasses.dataclass(frozen=True)
class ShardCounts:
    """What a shard holds.

    Attributes:
        seconds: of video, as the files state it.
        broken: [id, "kind: detail"] of every stored file that cannot be decoded.
        sizes: [height, width] of every stored file, [0, 0] where it cannot be decoded.
        bytes: of the stored files; `file_bytes`: of the shard.
    """

    videos: int = 0
    images: int = 0
    captions: int = 0
    questions: int = 0
    choices: int = 0
    with_captions: int = 0
    with_questions: int = 0
    seconds: float = 0.0
    bytes: int = 0
    file_bytes: int = 0
    missing: int = 0
    broken: list[list[str]] = dataclasses.field(default_factory=list)
    sizes: list[list[int]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """One shard to be written.

    Attributes:
        shard: which rows.
        rows_file: where they are.
        path: the file to write.
        limits: what one file may cost.
        encoding: how videos are stored; None: as they are.
        encode_budget_s: seconds that re-encoding a video may take.
    """

    shard: Shard
    rows_file: Path
    path: Path
    limits: decode.Limits = decode.Limits()
    encoding: Encoding | None = None
    encode_budget_s: float = 600.0

    def __len__(self) -> int:
        return len(self.shard)


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


def counts_of(path: Path) -> ShardCounts | None:
    """The counts of a complete shard; None if it is not complete."""
    try:
        counts = ShardCounts(**json.loads(path.with_name(path.name + COUNTS_SUFFIX).read_text(encoding="utf-8")))
        return counts if path.stat().st_size == counts.file_bytes else None
    except (OSError, ValueError, TypeError):
        return None


def write_shard(task: ShardTask, refused: Mapping[int, str], report: Callable[[int], None]) -> None:
    """Writes a shard and its counts.

    Args:
        task: what to write.
        refused: positions in the shard whose file must not be touched (it ended or blocked a worker), with the reason; they are
            stored without bytes.
        report: called with its position before a file is touched.

    Raises:
        UserError: a file cannot be read, or the shard cannot be written.
    """
    part = task.path.with_name(f"{task.path.name}.{os.getpid()}{PART_SUFFIX}")
    counts = _Counter()
    layout = features()
    serializer = tfds.core.ExampleSerializer(layout.get_serialized_info())
    try:
        writer = array_record_module.ArrayRecordWriter(str(part), _STORAGE_OPTIONS)
        for row, data in _contents(task, refused, report, counts):
            example = serializer.get_tf_example(layout.encode_example(to_example(row.annotation, data)))
            writer.write(example.SerializeToString(deterministic=True))  # else the order of the features is that of a hash
        writer.close()
        _flush(part)
        complete = counts.total(part.stat().st_size)
        os.replace(part, task.path)
        # The counts come last: they are what makes the shard complete.
        part.write_text(json.dumps(dataclasses.asdict(complete)) + "\n", encoding="utf-8")
        _flush(part)
        os.replace(part, task.path.with_name(task.path.name + COUNTS_SUFFIX))
    except (OSError, RuntimeError) as error:  # ArrayRecord reports a full disk as a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        raise UserError(f"the dataset cannot be written ({reason}); free some space or choose another --out") from error


class _Counter:
    """Adds up `ShardCounts`."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = dataclasses.asdict(ShardCounts())

    def add(self, row: Row, data: bytes, seen: decode.Probe | str) -> None:
        note, sums = row.annotation, self._sums
        sums["videos"] += 1
        sums["captions"] += len(note.captions)
        sums["questions"] += len(note.questions)
        sums["choices"] += bool(note.options)
        sums["with_captions"] += bool(note.captions)
        sums["with_questions"] += bool(note.questions)
        sums["bytes"] += len(data)
        sums["sizes"].append([0, 0] if isinstance(seen, str) else [seen.height, seen.width])
        if row.media is not None and not row.media.path:
            sums["missing"] += 1
        elif isinstance(seen, str):
            sums["broken"].append([note.video_id, seen])
        else:
            sums["images"] += seen.image
            sums["seconds"] += seen.seconds

    def total(self, file_bytes: int) -> ShardCounts:
        return ShardCounts(**{**self._sums, "file_bytes": file_bytes})


def _contents(
    task: ShardTask, refused: Mapping[int, str], report: Callable[[int], None], counts: _Counter
) -> Iterator[tuple[Row, bytes]]:
    """The rows with the bytes that are stored."""
    for position, row in enumerate(read_rows(task.rows_file, task.shard)):
        report(position)
        if position in refused:
            data, seen = b"", refused[position]
        elif row.media is None or not row.media.path:
            data, seen = b"", "missing"
        else:
            data, seen = _looked_at(row.media.read(), task)
        counts.add(row, data, seen)
        yield row, data


def _looked_at(data: bytes, task: ShardTask) -> tuple[bytes, decode.Probe | str]:
    """The bytes to store, and what a look at them showed; a file that does not decode is stored as it is."""
    try:
        seen = decode.probe(data, task.limits)
        if task.encoding is not None and not seen.image:
            data = reencode(data, task.encoding, dataclasses.replace(task.limits, budget_s=task.encode_budget_s))
        return data, seen
    except decode.VideoError as error:
        return data, str(error)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
