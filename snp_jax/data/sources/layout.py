"""Finding and reading the files of a downloaded dataset: annotation files by name, media by name, tables, JSON, lists.

What the files mean is the business of the modules of the datasets. Every complaint names the file, the line, and what to do.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from snp_jax.data.sources.rows import Media
from snp_jax.errors import UserError

_CHUNK = 1 << 20
_MAX_FIELD = 1 << 24


class Layout:
    """The directories in which a dataset's files are looked for: the manual directory, and below it those named."""

    def __init__(self, name: str, manual_dir: str | Path, below: Iterable[str] = ()):
        manual_dir = Path(manual_dir)
        if not manual_dir.is_dir():
            raise UserError(f"{manual_dir}: no such directory; give the one that holds the files of {name} as --manual-dir")
        self.name = name
        self.manual_dir = manual_dir
        self.roots = [root for root in (*(manual_dir / sub for sub in below), manual_dir) if root.is_dir()]

    def find(self, *patterns: str) -> Path | None:
        """The first file that matches a pattern; earlier patterns first, then earlier directories, then names."""
        for pattern in patterns:
            for root in self.roots:
                found = sorted(path for path in root.glob(pattern) if path.is_file())
                if found:
                    return found[0]
        return None

    def need(self, *patterns: str) -> Path:
        """Like `find`; a `UserError` if there is none."""
        found = self.find(*patterns)
        if found is None:
            raise UserError(
                f"{self.name}: found none of {', '.join(patterns)} in {', '.join(map(str, self.roots))}; "
                "see docs/data.md for the files it needs"
            )
        return found

    def directory(self, *names: str) -> Path | None:
        """The first of the directories that exists."""
        candidates = (root / name for name in names for root in self.roots)
        return next((path for path in candidates if path.is_dir()), None)

    def media(self) -> MediaIndex:
        """All files below the manual directory."""
        return MediaIndex(self.manual_dir)


class MediaIndex:
    """Files below a directory by name and by name without suffix; for datasets of up to some 100,000 files."""

    _NOT_MEDIA = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".pkl", ".zip", ".tar", ".md", ".parquet")

    def __init__(self, root: Path):
        self._by_name: dict[str, str] = {}
        self._by_stem: dict[str, str] = {}
        for directory, folders, files in os.walk(root, followlinks=True):
            folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
            for name in sorted(files):
                if name.startswith(".") or name.endswith(self._NOT_MEDIA):
                    continue
                path = os.path.join(directory, name)
                self._by_name.setdefault(name, path)
                self._by_stem.setdefault(stem(name), path)

    def find(self, *names: str) -> Media | None:
        """The file of one of the names: exactly so, with .mp4 added, or with any suffix in place of the name's own."""
        for name in names:
            own = name.rsplit("/", 1)[-1]
            path = self._by_name.get(own) or self._by_name.get(f"{own}.mp4") or self._by_stem.get(own)
            path = path or self._by_stem.get(stem(own))
            if path is not None:
                return Media.file(path)
        return None


def stem(name: str) -> str:
    """A file name without what follows its last dot (the dot may be the end: "a." -> "a")."""
    return name.rsplit(".", 1)[0] if "." in name else name


def clean(text: str) -> str:
    """A caption in one line, with single blanks."""
    return " ".join(text.split())


def cleaned(texts: Iterable[str]) -> tuple[str, ...]:
    """Captions in one line each, without empty ones."""
    return tuple(text for text in map(clean, texts) if text)


def read_json(path: Path) -> Any:
    """A JSON file as a whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); download it again") from error


def iter_json_array(path: Path) -> Iterator[Any]:
    """The items of a file that holds one JSON array, one at a time: such files may be larger than memory."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8") as file:
        text, started, ended = "", False, False
        while True:
            if not ended:
                chunk = file.read(_CHUNK)
                text, ended = text + chunk, not chunk
            text = text.lstrip(" \t\r\n,") if started else text.lstrip()
            if not started and text:
                if not text.startswith("["):
                    raise UserError(f"{path}: expected a JSON array; download it again")
                text, started = text[1:].lstrip(), True
            while text and not text.startswith("]"):
                try:
                    item, end = decoder.raw_decode(text)
                except ValueError as error:
                    if ended:
                        raise UserError(f"{path}: not valid JSON ({error}); download it again") from error
                    break  # the item goes on in the next chunk
                if end == len(text) and not ended:
                    break  # a number may go on
                yield item
                text = text[end:].lstrip(" \t\r\n,")
            if text.startswith("]"):
                return
            if ended:
                raise UserError(f"{path}: ends in the middle of its array; download it again")


def iter_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) for every line that is not blank."""
    for where, line in _lines(path):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: this line is not JSON ({error}); mend or remove it") from error
        if not isinstance(entry, dict):
            raise UserError(f"{where}: expected a JSON object, found {line.strip()[:60]}")
        yield where, entry


def read_list(path: Path) -> list[str]:
    """The lines of a file, without blank ones; the last may lack its newline."""
    return [line.strip() for _, line in _lines(path)]


def iter_table(path: Path, columns: Iterable[str], delimiter: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
    """("file:line", row) of a table with a header that has at least these columns; others may be there too."""
    csv.field_size_limit(_MAX_FIELD)
    with _open_text(path, newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        lacking = [column for column in columns if column not in (reader.fieldnames or ())]
        if lacking:
            raise UserError(
                f"{path}: the first line must name the columns {', '.join(columns)}; "
                f"found {', '.join(reader.fieldnames or ['nothing'])}, without {', '.join(lacking)}"
            )
        for row in reader:
            yield f"{path}:{reader.line_num}", {key: value or "" for key, value in row.items() if key is not None}


def iter_tsv_pairs(path: Path) -> Iterator[tuple[int, str, str]]:
    """(row number from 0, first column, second column) of a tab-separated file without header and without quoting."""
    for number, (where, line) in enumerate(_lines(path)):
        columns = line.rstrip("\r\n").split("\t")
        if len(columns) < 2:
            raise UserError(f"{where}: expected two columns with a tab between them, found {line.strip()[:60]!r}")
        yield number, columns[0], columns[1]


def load_plain_pickle(path: Path) -> Any:
    """A pickle that holds dicts, lists, strings and numbers and nothing else: a pickle from elsewhere may run code."""
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError) as error:
        raise UserError(f"{path}: not a pickle of plain dicts, lists and strings ({error}); use another form of it") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def field(entry: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field of an annotation; a `UserError` if it is absent or of another type."""
    value = entry.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = " or ".join(sorted(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,))))
        shown = "no such key" if key not in entry else repr(value)[:60]
        raise UserError(f'{where}: "{key}" must be {wanted}, found {shown}; is this the right file?')
    return value


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    with _open_text(path, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", line


class _open_text:  # noqa: N801 (used as a function)
    """Opens UTF-8 text (a byte order mark is skipped); says so in one sentence if that fails, also while reading."""

    def __init__(self, path: Path, newline: str):
        self._path = path
        self._newline = newline

    def __enter__(self) -> io.TextIOWrapper:
        try:
            self._file = self._path.open(encoding="utf-8-sig", newline=self._newline)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be read ({error.strerror}); check the file") from error
        return self._file

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._file.close()
        if isinstance(error, UnicodeDecodeError):
            raise UserError(f"{self._path}: is not UTF-8 text (byte {error.start}); convert it to UTF-8") from error
        if isinstance(error, csv.Error):
            raise UserError(f"{self._path}: not a table ({error}); download it again") from error
