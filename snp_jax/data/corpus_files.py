"""The files of the text preparation tools: captions in, derived files out.

Reads only the texts of an annotation file; complete annotation records (videos, spans, answers) are read
elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from snp_jax.errors import UserError


def read_captions(files: Iterable[str | Path]) -> list[str]:
    """Captions of `.txt` files (one a line) and `.jsonl` files (objects with "captions", or strings).

    Returns: the captions in file order, repeats kept, empty lines left out.

    Raises:
      UserError: a file that cannot be read, a line that is not JSON or holds no captions (which file, which
      line).
    """
    captions: list[str] = []
    for path in map(Path, files):
        if path.suffix == ".jsonl":
            for where, entry in _json_lines(path):
                captions += _captions_of(entry, where)
        elif path.suffix == ".txt":
            captions += [line for _, line in _lines(path)]
        else:
            raise UserError(f"{path}: captions are read from .txt and .jsonl files; rename or convert this one")
    return captions


def read_training_texts(folder: str | Path, *, captions_only: bool = False) -> list[str]:
    """Texts of a folder dataset's train.jsonl: captions, then questions and options unless `captions_only`.

    Raises:
      UserError: no train.jsonl, or a malformed line.
    """
    path = Path(folder) / "train.jsonl"
    texts: list[str] = []
    for where, entry in _json_lines(path):
        if not isinstance(entry, dict):
            raise UserError(f"{where}: expected a JSON object that describes a video, found {str(entry)[:40]!r}")
        texts += _strings(entry.get("captions", []), "captions", where)
        if not captions_only:
            questions = entry.get("questions", [])
            if not isinstance(questions, list) or not all(isinstance(q, dict) for q in questions):
                raise UserError(f'{where}: "questions" must be a list of objects with "question" and "answer"')
            texts += _strings([q.get("question", "") for q in questions], "questions", where)
            texts += _strings(entry.get("options", []), "options", where)
    return texts


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


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.strip()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text; convert it to UTF-8") from error
