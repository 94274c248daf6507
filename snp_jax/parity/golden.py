"""Reads golden cases: numbers recorded from the authors' code, an npz of arrays beside a JSON of facts, or a JSON alone."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from snp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Golden:
    """One case.

    Attributes:
        name: file name without its ending.
        facts: the JSON.
        arrays: by full name, e.g. "in/input_ids"; empty for a case that is JSON alone.
    """

    name: str
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def config(self) -> dict[str, Any]:
        """The sizes and options that the case was made with."""
        return self.facts["config"]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names start with `prefix`, which is taken off."""
        return {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}


def find_goldens(folder: Path) -> list[Path]:
    """The JSON file of every case in a folder, sorted by name.

    Raises:
        UserError: there is none.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder}: no golden case there (a JSON file, mostly with an npz file beside it)")
    return files


def load_golden(file: Path) -> Golden:
    """Reads one case.

    Raises:
        UserError: damaged, or the arrays that the JSON lists are not there.
    """
    try:
        facts = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    if not isinstance(facts, dict):
        raise UserError(f"{file}: not a golden case: a {type(facts).__name__} instead of named facts")
    listed = {entry["name"]: tuple(entry["shape"]) for entry in facts.get("arrays", [])}
    arrays: dict[str, np.ndarray] = {}
    if listed:
        data = file.with_suffix(".npz")
        try:
            with np.load(data, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{data}: cannot be read ({error})") from error
    for name, shape in listed.items():
        if name not in arrays or arrays[name].shape != shape:
            found = arrays[name].shape if name in arrays else "nothing"
            raise UserError(f"{file}: {name} should have shape {shape}, found {found}")
    return Golden(file.stem, facts, arrays)
