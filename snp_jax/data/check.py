"""Reads a prepared dataset completely and reports what is in it: broken files, lengths, sizes, captions, duplicates.

Workers look at every record at the speed of decoding; one that ends or blocks is replaced (`stream`, `watch`). The
report is made of plain values; its page is in `check_page`.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from snp_jax.data import decode
from snp_jax.data.sources.prepared import VideoSource, open_source, read_summaries
from snp_jax.data.stream import BatchStream, Reading, Share
from snp_jax.data.watch import Watch, WatchKeeper

MISSING = "missing"
_BATCH = 8
_NAMED = 20  # broken files and duplicates that the report names
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_PATIENCE, _PATIENCE_S = 2, 5.0


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """What was seen in a split; JSON-able.

    Attributes:
        examples: records; `images`: those that are still images.
        broken: reason -> number; `broken_names`: some of them, id -> reason.
        captions: and questions, here as in all that follows.
        seconds, captions_per_example, words_per_caption: minimum, 5 %, 25 %, 50 %, 75 %, 95 %, maximum; empty without any.
        lengths: histogram of the lengths of videos: [from, to, number] in seconds; `words`: of words per caption.
        sizes: "width x height" -> number, most frequent first.
        repeated: captions that occur at least twice in the split.
        same_file: groups of ids with identical bytes.
        samples: indices of unbroken examples, evenly spread.
    """

    examples: int
    images: int
    broken: dict[str, int]
    broken_names: dict[str, str]
    seconds: list[float]
    lengths: list[list[float]]
    sizes: dict[str, int]
    captions: int
    captions_per_example: list[float]
    words_per_caption: list[float]
    words: list[list[float]]
    repeated: int
    same_file: list[list[str]]
    samples: list[int]


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What two splits share: ids, files with identical bytes, captions and questions; some of the files as pairs of ids."""

    first: str
    second: str
    ids: int
    files: int
    captions: int
    examples: list[list[str]]


@dataclasses.dataclass(frozen=True)
class DatasetReport:
    """The whole report."""

    directory: str
    splits: dict[str, SplitReport]
    overlaps: list[Overlap]

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")


@dataclasses.dataclass
class _Seen:
    """All facts about a split, in storage order."""

    facts: list[dict[str, Any]]

    def digests(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for fact in self.facts:
            if fact["bytes"]:
                groups.setdefault(fact["digest"], []).append(fact["id"])
        return groups

    def captions(self) -> collections.Counter[str]:
        return collections.Counter(caption for fact in self.facts for caption in fact["captions"])


def check_dataset(
    directory: str | Path, *, reading: Reading, deep: bool, samples: int, progress: Callable[[int], object]
) -> DatasetReport:
    """Reads everything.

    Args:
        directory: a prepared dataset.
        reading: workers and threads.
        deep: decode every frame; otherwise the first, the middle and the last.
        samples: examples per split for the page.
        progress: called with the number of records read since the last call.

    Raises:
        UserError: not a prepared dataset, or workers end again and again.
    """
    seen = {split: _read(open_source(directory, split), reading, deep, progress) for split in read_summaries(directory)}
    names = list(seen)
    overlaps = [_overlap(a, seen[a], b, seen[b]) for i, a in enumerate(names) for b in names[i + 1 :]]
    return DatasetReport(str(directory), {split: _report(facts, samples) for split, facts in seen.items()}, overlaps)


def _read(source: VideoSource, reading: Reading, deep: bool, progress: Callable[[int], object]) -> _Seen:
    keeper = WatchKeeper()
    count = -(-len(source) // _BATCH) * _BATCH  # batches are whole
    examples = grain.MapDataset.range(count).map(functools.partial(_look, source=source, deep=deep, watch=keeper.watch))
    stream = BatchStream(
        examples, Share(tuple(range(_BATCH)), _BATCH), reading, identity={"videos": len(source)}, keeper=keeper
    )
    facts: list[dict[str, Any]] = []
    try:
        for batch in stream:
            new = [json.loads(fact) for fact in batch["fact"].tolist() if fact]
            facts += new
            progress(len(new))
    finally:
        stream.close()
    return _Seen(facts)


def _look(index: int, *, source: VideoSource, deep: bool, watch: Watch) -> dict[str, str]:
    """Runs in the workers. One string, because examples of a batch must have equal shapes."""
    if index >= len(source):
        return {"fact": ""}
    record = source[index]
    note = record.annotation
    fact: dict[str, Any] = {
        "id": note.video_id,
        "bytes": len(record.video),
        "digest": hashlib.sha256(record.video).hexdigest(),
        "captions": [*note.captions, *(question.question for question in note.questions)],
        "failure": "" if record.video else MISSING,
    }
    limits = decode.Limits()
    try:
        if record.video:
            with watch.decoding(note.video_id, _PATIENCE * limits.budget_s + _PATIENCE_S):
                fact |= dataclasses.asdict(decode.probe(record.video, limits))
                if deep:
                    fact["frames"] = sum(1 for _ in decode.frames(record.video, limits))
    except decode.VideoError as error:
        fact["failure"] = str(error)
    return {"fact": json.dumps(fact)}


def _report(seen: _Seen, samples: int) -> SplitReport:
    fine = [fact for fact in seen.facts if not fact["failure"]]
    failed = {fact["id"]: fact["failure"] for fact in seen.facts if fact["failure"]}
    reasons = collections.Counter(failure.partition(":")[0] for failure in failed.values())
    lengths = [fact["seconds"] for fact in fine if not fact["image"]]
    captions = seen.captions()
    words = [len(caption.split()) for caption in captions.elements()]
    sizes = collections.Counter(f"{fact['width']} x {fact['height']}" for fact in fine)
    rows = [row for row, fact in enumerate(seen.facts) if not fact["failure"]]
    chosen = np.linspace(0, len(rows) - 1, min(samples, len(rows))).round().astype(int) if rows else []
    return SplitReport(
        examples=len(seen.facts),
        images=sum(fact["image"] for fact in fine),
        broken=dict(sorted(reasons.items())),
        broken_names=dict(sorted(failed.items())[:_NAMED]),
        seconds=_quantiles(lengths),
        lengths=_histogram(lengths),
        sizes=dict(sizes.most_common(_NAMED)),
        captions=len(words),
        captions_per_example=_quantiles([len(fact["captions"]) for fact in seen.facts]),
        words_per_caption=_quantiles(words),
        words=_histogram(words, whole=True),
        repeated=sum(count > 1 for count in captions.values()),
        same_file=[ids for ids in seen.digests().values() if len(ids) > 1][:_NAMED],
        samples=[rows[i] for i in chosen],
    )


def _overlap(first: str, one: _Seen, second: str, other: _Seen) -> Overlap:
    files, others = one.digests(), other.digests()
    shared = files.keys() & others.keys()
    pairs = sorted([files[digest][0], others[digest][0]] for digest in shared)
    return Overlap(
        first=first,
        second=second,
        ids=len({fact["id"] for fact in one.facts} & {fact["id"] for fact in other.facts}),
        files=len(shared),
        captions=len(one.captions().keys() & other.captions().keys()),
        examples=pairs[:_NAMED],
    )


def _quantiles(values: Sequence[float]) -> list[float]:
    return [round(float(value), 3) for value in np.quantile(values, _QUANTILES)] if values else []


def _histogram(values: Iterable[float], *, whole: bool = False, bins: int = 20) -> list[list[float]]:
    """[from, to, number]; values beyond the 99 % quantile are in the last bin."""
    values = np.asarray(list(values), float)
    if not len(values):
        return []
    top = float(np.quantile(values, 0.99))
    if whole:
        edges = np.unique(np.linspace(0, max(top, 1) + 1, min(bins, int(max(top, 1)) + 1) + 1).round())
    else:
        edges = np.linspace(0, max(top, 1e-3), bins + 1)
    counts, edges = np.histogram(np.minimum(values, edges[-1]), edges)
    return [[float(a), float(b), int(n)] for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]
