"""The pieces of mining: captions dealt out to files by their hash, and the counts of each piece. Survives a kill at any moment.

Equal captions land in the same file, so each piece is a complete count of its own captions, whoever makes it and when. Files
get their names only when they are whole. Small pieces are joined to units, so that a small corpus is one unit.

    PARTS/captions/00 .. ff    one caption a line
    PARTS/plan.json            units, number of captions, what they were made from; written last
    PARTS/counts/<unit>.json   one for each unit that is done
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from snp_jax.data.corpus_files import write_atomically
from snp_jax.errors import UserError

_FILES = 256
_UNIT = 16_384  # captions after which a unit is full
_BUFFER = 1 << 16  # bytes, of each file


@dataclasses.dataclass(frozen=True)
class Unit:
    """Some of the files, tagged by one process in one go: `files` from `first` up to before `last`."""

    first: int
    last: int
    captions: int

    @property
    def name(self) -> str:
        return f"{self.first:02x}-{self.last - 1:02x}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """All units, and the number of captions (repeats counted)."""

    units: tuple[Unit, ...]
    captions: int


@dataclasses.dataclass(frozen=True)
class Parts:
    """The directory of the pieces. `corpus` says what the captions are read from; pieces of another corpus are thrown away."""

    directory: Path
    corpus: str

    @classmethod
    def beside(cls, out: str | Path, corpus: str) -> Parts:
        """The pieces of the mining that will write `out`."""
        return cls(Path(f"{out}.parts"), corpus)

    def deal(self, captions: Iterable[str], tagger: str, *, progress: bool) -> Plan:
        """Deals the captions out to files; does nothing when that is done.

        Args:
            captions: normalised, without line breaks; empty ones are left out.
            tagger: model and version, which the counts depend on.
            progress: whether to show that something is happening.
        """
        made_from = {"corpus": self.corpus, "tagger": tagger, "unit": _UNIT}
        with contextlib.suppress(OSError, ValueError):
            plan = json.loads(self._plan.read_text(encoding="utf-8"))
            if plan["made_from"] == made_from:
                return Plan(tuple(Unit(**unit) for unit in plan["units"]), plan["captions"])
        shutil.rmtree(self.directory, ignore_errors=True)
        try:
            counts = self._write(captions, progress)
        except OSError as error:
            raise UserError(f"{self.directory}: cannot be written ({error.strerror}); free some space") from error
        units = tuple(_join(counts))
        content = {"made_from": made_from, "captions": sum(counts), "units": [dataclasses.asdict(unit) for unit in units]}
        write_atomically(self._plan, json.dumps(content).encode())
        return Plan(units, sum(counts))

    def _write(self, captions: Iterable[str], progress: bool) -> list[int]:
        (self.directory / "captions").mkdir(parents=True)
        (self.directory / "counts").mkdir()
        counts = [0] * _FILES
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(self._captions(i), "wb", _BUFFER)) for i in range(_FILES)]
            for caption in tqdm(captions, desc="reading", unit="caption", disable=not progress, delay=2):
                content = caption.encode("utf-8", "ignore")  # half a character cannot be written, nor tagged
                if content:
                    part = zlib.crc32(content) % _FILES
                    files[part].write(content + b"\n")
                    counts[part] += 1
        return counts

    def captions(self, unit: Unit) -> Iterator[str]:
        """The captions of a unit, repeats kept."""
        for part in range(unit.first, unit.last):
            with open(self._captions(part), encoding="utf-8", newline="\n") as file:
                for line in file:
                    yield line[:-1]

    def is_done(self, unit: Unit) -> bool:
        return self._counts(unit).exists()

    def write(self, unit: Unit, counted: Counter[tuple[str, str]], distinct: int) -> None:
        """Keeps the counts of a unit and the number of its distinct captions."""
        rows = [[word, tag, count] for (word, tag), count in sorted(counted.items())]
        write_atomically(self._counts(unit), json.dumps({"distinct": distinct, "words": rows}).encode())

    def read(self, unit: Unit) -> tuple[Counter[tuple[str, str]], int]:
        """What `write` kept."""
        content = json.loads(self._counts(unit).read_text(encoding="utf-8"))
        return Counter({(word, tag): count for word, tag, count in content["words"]}), content["distinct"]

    def remove(self) -> None:
        """Removes all pieces, once the result is safe."""
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _plan(self) -> Path:
        return self.directory / "plan.json"

    def _captions(self, part: int) -> Path:
        return self.directory / "captions" / f"{part:02x}"

    def _counts(self, unit: Unit) -> Path:
        return self.directory / "counts" / f"{unit.name}.json"


def describe_files(files: Iterable[Path]) -> str:
    """Which files, how large and how old: another description is another corpus.

    Raises:
        UserError: there is no such file.
    """
    try:
        found = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check the path") from error
    return repr(found)


def _join(counts: list[int]) -> Iterator[Unit]:
    """Neighbouring files until a unit is full; the last one may be smaller."""
    first = captions = 0
    for part, count in enumerate(counts):
        captions += count
        if captions >= _UNIT or (part == len(counts) - 1 and captions):
            yield Unit(first, part + 1, captions)
            first, captions = part + 1, 0
