"""The files of the text preparation tools: captions in, derived files out.

Reads only the texts of an annotation file; complete annotation records (videos, spans, answers) are read
elsewhere.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from snp_jax.errors import UserError

PREPARED_FILE = "prepared.json"
"""In the folder of a prepared dataset (`sources/prepared.py`, which is slow to import)."""


def iterate_captions(files: Iterable[str | Path]) -> Iterator[str]:
    """Captions of files, one after the other; repeats kept, empty lines left out.

    `.txt`: one a line. `.jsonl`: objects with "captions" or "caption", or strings. `.csv`: the column "caption", else "name"
    (WebVid). `.tsv` without a header: the first column (CC3M).

    Raises:
      UserError: a file that cannot be read, a line that is not JSON or holds no captions (which file, which
      line).
    """
    readers = {".txt": _text_captions, ".jsonl": _json_captions, ".csv": _csv_captions, ".tsv": _tsv_captions}
    for path in map(Path, files):
        if path.suffix not in readers:
            raise UserError(f"{path}: captions are read from {', '.join(readers)} files; rename or convert this one")
        yield from readers[path.suffix](path)


def read_captions(files: Iterable[str | Path]) -> list[str]:
    """`iterate_captions` as a list."""
    return list(iterate_captions(files))


def _text_captions(path: Path) -> Iterator[str]:
    return (line for _, line in _lines(path))


def _json_captions(path: Path) -> Iterator[str]:
    for where, entry in _json_lines(path):
        yield from _captions_of(entry, where)


def _csv_captions(path: Path) -> Iterator[str]:
    rows = csv.DictReader(line for _, line in _lines(path, strip=False))
    column = next((name for name in ("caption", "name") if name in (rows.fieldnames or ())), None)
    if column is None:
        raise UserError(f'{path}: has no column "caption" or "name"; name the column of the captions so')
    return (row[column] for row in rows if row[column])


def _tsv_captions(path: Path) -> Iterator[str]:
    return (line.partition("\t")[0] for _, line in _lines(path))  # quotes are part of the captions


def read_training_texts(folder: str | Path, *, captions_only: bool = False) -> list[str]:
    """`iterate_training_texts` as a list."""
    return list(iterate_training_texts(folder, captions_only=captions_only))


def iterate_training_texts(folder: str | Path, *, captions_only: bool = False) -> Iterator[str]:
    """Texts of the train split of a folder dataset or of a prepared one: of each video captions, then questions and options
    unless `captions_only`.

    Raises:
      UserError: no train split, or a malformed line.
    """
    path = training_file(folder)
    if path.name == PREPARED_FILE:
        yield from _prepared_texts(folder, captions_only)
        return
    for where, entry in _json_lines(path):
        if not isinstance(entry, dict):
            raise UserError(f"{where}: expected a JSON object that describes a video, found {str(entry)[:40]!r}")
        yield from _strings(entry.get("captions", []), "captions", where)
        if not captions_only:
            questions = entry.get("questions", [])
            if not isinstance(questions, list) or not all(isinstance(q, dict) for q in questions):
                raise UserError(f'{where}: "questions" must be a list of objects with "question" and "answer"')
            yield from _strings([q.get("question", "") for q in questions], "questions", where)
            yield from _strings(entry.get("options", []), "options", where)


def training_file(folder: str | Path) -> Path:
    """The file that changes with the texts of `iterate_training_texts`: prepared.json where there is one, else train.jsonl."""
    prepared = Path(folder) / PREPARED_FILE
    return prepared if prepared.exists() else Path(folder) / "train.jsonl"


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror}); free some space or choose another place") from error


def _prepared_texts(folder: str | Path, captions_only: bool) -> Iterator[str]:
    from snp_jax.data.sources.prepared import open_source  # TFDS is slow to load, and needed here alone

    source = open_source(folder, "train")
    for index in range(len(source)):
        note = source[index].annotation
        yield from note.captions
        if not captions_only:
            yield from (question.question for question in note.questions)
            yield from note.options


def _captions_of(entry: object, where: str) -> Sequence[str]:
    if isinstance(entry, str):
        return [entry]
    if isinstance(entry, dict) and "captions" in entry:
        return _strings(entry["captions"], "captions", where)
    if isinstance(entry, dict) and "caption" in entry:
        return _strings([entry["caption"]], "caption", where)
    raise UserError(f'{where}: no captions found; expected an object with "captions" or "caption", or a string')


def _strings(value: object, key: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(f'{where}: "{key}" must hold text, found {str(value)[:40]!r}')
    return value


def _json_lines(path: Path) -> Iterator[tuple[str, object]]:
    for number, line in _lines(path):
        where = f"{path} line {number}"
        try:
            yield where, json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not valid JSON ({error.msg} at column {error.colno}); mend this line") from error


def _lines(path: Path, *, strip: bool = True) -> Iterator[tuple[int, str]]:
    """Lines that are not blank with their numbers; `strip=False` leaves them as they are, a byte order mark apart."""
    try:
        with path.open(encoding="utf-8" if strip else "utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.strip() if strip else line
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text; convert it to UTF-8") from error
