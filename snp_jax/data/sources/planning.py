"""From rows to a plan on disk: sizes checked, missing files listed, every example given its place in a shard.

Rows go through here one at a time and are kept in a file, so millions of them need no memory, and worker processes read them by
number. The same input gives the same plan and the same fingerprint, which is what makes a preparation resumable. What is done
with a plan is in `shards` and `prepare`.
"""

from __future__ import annotations

import array
import dataclasses
import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from snp_jax.data.records import to_example
from snp_jax.data.sources.rows import Media, Reading, Row, Split
from snp_jax.errors import UserError

EXAMPLES_PER_SHARD = 1000
BYTES_PER_SHARD = 256 << 20
_ROWS = "rows.bin"
_SHUFFLE_SEED = 0
_COUNTED = ("videos", "captions", "questions", "choices")
_NO_MEDIA = Media("", 0)
_NAMED = 3  # how many offenders a message names before it only counts


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of the dataset to be: shard `index` of `count` of a split, and its rows (places in the rows file)."""

    split: str
    index: int
    count: int
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)


@dataclasses.dataclass(frozen=True)
class Absent:
    """Something that the complete dataset has: an annotated file ("file") or a whole annotation ("annotation")."""

    split: str
    video_id: str
    what: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be written.

    Attributes:
        rows_file: the rows, see `read_rows`.
        shards: split -> shards.
        fingerprint: identifies the content: changes with any annotation and with the size of any file.
        absent: what is missing.
        notes: differences to the published sizes that were let pass.
    """

    rows_file: Path
    shards: dict[str, list[Shard]]
    fingerprint: str
    absent: tuple[Absent, ...]
    notes: tuple[str, ...]

    @property
    def examples(self) -> int:
        return sum(len(shard) for shards in self.shards.values() for shard in shards)


def make_plan(reading: Reading, directory: Path, *, allow_missing: bool, settings: str, progress: Callable[[], object]) -> Plan:
    """Reads all rows, checks them and writes them to `directory`.

    Args:
        reading: the dataset.
        directory: exists; gets the rows file.
        allow_missing: go on when files or annotations are missing.
        settings: whatever else decides what is written, for the fingerprint.
        progress: called after each row.

    Raises:
        UserError: the dataset is not the published one, files are missing, or an id comes twice; with all numbers.
    """
    digest = hashlib.sha256(repr((reading.name, settings, sorted(reading.files.items()))).encode())
    problems: list[str] = []
    notes = list(reading.notes)
    absent: list[Absent] = []
    shards: dict[str, list[Shard]] = {}
    ids = array.array("Q")
    rows_file = directory / _ROWS
    with rows_file.open("wb") as out:
        for split in reading.splits:
            spooled = _spool(split, out, digest, ids, progress)
            if spooled.places:  # a split of which nothing is there is left out
                shards[split.name] = _shards(split.name, spooled)
            absent += spooled.absent
            wrong = [_sentence(split.name, key, found, wanted) for key, found, wanted in _differences(split, spooled)]
            (problems if split.expected.certain else notes).extend(wrong)
            if spooled.missing_files:
                names = [entry.video_id for entry in spooled.absent if entry.what == "file"]
                problems.append(
                    f"{spooled.missing_files:,} of {spooled.counts['videos']:,} files of the {split.name} split "
                    f"are missing ({named(names)})"
                )
    if problems and not allow_missing:
        raise UserError(
            f"{reading.name}: {'; '.join(problems)}; complete the data, or pass --allow-missing to go on without "
            "(what is missing is then listed in missing.jsonl of the dataset)"
        )
    _check_ids(reading.name, ids, rows_file, shards)
    if not shards:
        raise UserError(f"{reading.name}: none of the annotated files are there; check --manual-dir")
    return Plan(rows_file, shards, digest.hexdigest(), tuple(absent), tuple(notes + problems))


def read_rows(rows_file: Path, shard: Shard) -> Iterator[Row]:
    """The rows of a shard, in its order."""
    with rows_file.open("rb") as file:
        for place in shard.places:
            file.seek(int(place))
            yield pickle.load(file)


def named(names: Sequence[str]) -> str:
    """A few of the names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


@dataclasses.dataclass
class _Spooled:
    places: array.array
    sizes: int
    counts: dict[str, int]
    absent: list[Absent]
    missing_files: int


def _spool(split: Split, out, digest, ids: array.array, progress: Callable[[], object]) -> _Spooled:
    """Writes the rows of a split to the rows file."""
    spooled = _Spooled(array.array("Q"), 0, dict.fromkeys(_COUNTED, 0), [], 0)
    roster = set(split.roster)
    for row in split.rows:
        note = row.annotation
        roster.discard(note.video_id)
        for key, amount in zip(_COUNTED, (1, len(note.captions), len(note.questions), bool(note.options)), strict=True):
            spooled.counts[key] += amount
        progress()
        if row.media is None:
            spooled.missing_files += 1
            spooled.absent.append(Absent(split.name, note.video_id, "file"))
            if not split.keep_missing:
                continue
            row = Row(note, _NO_MEDIA)
        spooled.places.append(out.tell())
        spooled.sizes += row.media.size
        pickle.dump(row, out, protocol=pickle.HIGHEST_PROTOCOL)
        digest.update(repr((split.name, to_example(note, b""), row.media.size)).encode())
        ids.append(int.from_bytes(hashlib.blake2b(note.video_id.encode(), digest_size=8).digest(), "big"))
    spooled.absent += [Absent(split.name, video_id, "annotation") for video_id in sorted(roster)]
    spooled.counts.update(split.counts)
    return spooled


def _shards(split: str, spooled: _Spooled) -> list[Shard]:
    """Deals the rows out: mixed, because neighbours in a file are often alike (cut from one film)."""
    places = np.array(spooled.places, dtype=np.uint64)
    count = max(-(-len(places) // EXAMPLES_PER_SHARD), min(-(-spooled.sizes // BYTES_PER_SHARD), len(places)))
    mixed = places[np.random.default_rng(_SHUFFLE_SEED).permutation(len(places))]
    return [Shard(split, k, count, mixed[k::count]) for k in range(count)]


def _differences(split: Split, spooled: _Spooled) -> Iterator[tuple[str, int, int]]:
    for key in _COUNTED:
        wanted = getattr(split.expected, key)
        if wanted is not None and wanted != spooled.counts[key]:
            yield key, spooled.counts[key], wanted


def _sentence(split: str, key: str, found: int, wanted: int) -> str:
    return f"the {split} split has {found:,} annotated {key}, published are {wanted:,}"


def _check_ids(name: str, ids: array.array, rows_file: Path, shards: dict[str, list[Shard]]) -> None:
    """Ids are unique: compared by 64-bit hash, looked up by name only when two are alike."""
    hashes = np.sort(np.array(ids, dtype=np.uint64))
    if not (hashes[1:] == hashes[:-1]).any():
        return
    seen: set[str] = set()
    for split in shards.values():
        for shard in split:
            for row in read_rows(rows_file, shard):
                if row.annotation.video_id in seen:
                    raise UserError(
                        f'{name}: the id "{row.annotation.video_id}" comes twice; give every video one annotation in one split'
                    )
                seen.add(row.annotation.video_id)
