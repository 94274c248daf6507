"""A prepared dataset on disk: opening it, and what it says about itself.

One directory: TFDS's own files, `prepared.json` (what was counted, and a fingerprint of the input), and, where there
is something to say, `missing.jsonl`, `broken.jsonl` and `answers.json`. How it comes about is in `prepare`; what is
done with an open source is `pipeline`'s business.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from snp_jax.data.corpus_files import PREPARED_FILE
from snp_jax.data.records import Annotation, from_example
from snp_jax.errors import UserError

MISSING_FILE = "missing.jsonl"
BROKEN_FILE = "broken.jsonl"
ANSWERS_FILE = "answers.json"


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """What a split holds.

    Attributes:
        videos: stored examples, `images` among them.
        captions, questions, choices: of all examples; with_captions, with_questions: examples that have any.
        seconds: of video.
        unreadable: stored files that cannot be decoded (masked later); `broken` counts them by reason.
        bytes: of the stored files.
        missing: files and annotations of the complete dataset that were not there.
    """

    videos: int
    captions: int
    questions: int
    choices: int
    with_captions: int
    with_questions: int
    seconds: float
    unreadable: int
    bytes: int
    images: int = 0
    missing: int = 0
    broken: dict[str, int] = dataclasses.field(default_factory=dict)


class Record:
    """One stored example: `annotation` and the encoded bytes of its video or image."""

    __slots__ = ("annotation", "video")

    def __init__(self, annotation: Annotation, video: bytes):
        self.annotation = annotation
        self.video = video


class VideoSource:
    """A split of a prepared dataset with random access: `source[i]` is a `Record`. Pickles, for workers.

    Raises:
        UserError: when a record is read that is damaged, or not there.
    """

    def __init__(self, directory: str, split: str, summary: SplitSummary, data_source: Any):
        self.directory = directory
        self.split = split
        self.summary = summary
        self._data_source = data_source

    def __len__(self) -> int:
        return len(self._data_source)

    def __getitem__(self, index: int) -> Record:
        try:
            example = self._data_source[index]
        except (RuntimeError, OSError) as error:  # ArrayRecord's checksums
            reason = str(error).partition(" (")[0]
            raise UserError(
                f"{self.directory}: record {index} of the {self.split} split cannot be read ({reason}): its file is damaged "
                "or gone; copy the dataset again, or delete it and prepare it again"
            ) from error
        return Record(from_example(example), bytes(example["video"]))

    def __repr__(self) -> str:
        return f"VideoSource({self.directory!r}, split={self.split!r}, videos={len(self)})"


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


def summary_table(summaries: dict[str, SplitSummary]) -> str:
    """The counts as lines of text, one a split."""
    rows = [("split", "videos", "captions", "questions", "choices", "hours", "missing", "broken", "MB")]
    for split, summary in summaries.items():
        counts = (summary.videos, summary.captions, summary.questions, summary.choices)
        bad = (f"{summary.missing:,}", f"{summary.unreadable:,}")
        hours, megabytes = f"{summary.seconds / 3600:.2f}", f"{summary.bytes / 1e6:.1f}"
        rows.append((split, *(f"{count:,}" for count in counts), hours, *bad, megabytes))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def read_notes(directory: str | Path) -> list[str]:
    """What the user was told when the dataset was prepared.

    Raises:
        UserError: `directory` is not a prepared dataset.
    """
    return _read_prepared(Path(directory)).get("notes", [])


def read_answers(directory: str | Path) -> dict[str, int] | None:
    """The answer vocabulary (answer -> class) that the dataset was prepared with; None if it has none."""
    path = Path(directory) / ANSWERS_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


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
        raise UserError(
            f"{directory}: there is no dataset; write it with tools/prepare.py NAME --manual-dir D --out {directory}"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{directory}: not a prepared dataset ({PREPARED_FILE} is missing); give the --out of tools/prepare.py"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete the directory and prepare it again") from error
