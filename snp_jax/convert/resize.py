"""Fits learnt position tables to a model of other lengths. Asked for by name, never done silently.

Two kinds have a length: BERT's position table, and Swin's relative-position bias tables, whose window differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from snp_jax.convert.sizes import window_of_table
from snp_jax.errors import UserError

POSITIONS = "position/embedding"
RELATIVE = "relative_bias"
CUBIC = -0.75
"""The free coefficient of PyTorch's (and OpenCV's) cubic interpolation."""


@dataclasses.dataclass(frozen=True)
class Resized:
    """One table that was fitted: its path, its shapes before and after, and how."""

    path: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    how: str


def fit_positions(table: np.ndarray, rows: int) -> np.ndarray:
    """`[P, D]` -> `[rows, D]`: the first rows, or all of them again and again where they are too few (as in Longformer)."""
    return np.resize(table, (rows, table.shape[1])) if rows > len(table) else table[:rows].copy()


def fit_relative(table: np.ndarray, before: tuple[int, int, int], after: tuple[int, int, int]) -> np.ndarray:
    """Cubic interpolation of a bias table over (2 frames - 1, 2 rows - 1, 2 columns - 1): `[entries, H]` -> `[entries', H]`.

    The ends of the axes keep their meaning: the farthest offset stays the farthest, the middle (no offset) the middle.
    """
    grid = table.reshape(*(2 * side - 1 for side in before), table.shape[1]).astype(np.float64)
    for axis, (old, new) in enumerate(zip(before, after, strict=True)):
        if old != new:
            grid = np.moveaxis(np.tensordot(_cubic(2 * old - 1, 2 * new - 1), grid, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(grid.reshape(-1, table.shape[1]), table.dtype)


def fit_to(
    params: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]], window: tuple[int, int, int] | None, *, allow: bool
) -> tuple[dict[str, Any], list[Resized]]:
    """Compares converted parameters with the shapes of a config's model, and resizes tables if allowed.

    Args:
        params: nested parameters, whole parts of the model.
        wanted: shape by parameter path of the config's model.
        window: the config's Video Swin window; None when it has no Video Swin.
        allow: resize the tables that have another length; without it they are an error like any other.

    Raises:
        UserError: a parameter has another shape, or the model has no such parameter.
    """
    fitted, changes = flatten_dict(params, sep="/"), []
    for path, array in fitted.items():
        before, after = tuple(array.shape), wanted.get(path)
        if after is None:
            raise UserError(
                f"the config does not fit the file: its model has no parameter {path}, the file has one of {before}"
            )
        if before == after:
            continue
        table = path.endswith((POSITIONS, RELATIVE)) and before[1:] == after[1:]
        if not (table and allow):
            advice = "pass --resize to fit the table" if table else "choose the config that the file was made with"
            raise UserError(
                f"the config does not fit the file: {path} is {before} in the file and {after} in the config; {advice}"
            )
        fitted[path], how = _fit(path, array, after, window)
        changes.append(Resized(path, before, after, how))
    return unflatten_dict(fitted, sep="/"), changes


def _fit(path: str, array: np.ndarray, shape: tuple[int, ...], window: tuple[int, int, int] | None) -> tuple[np.ndarray, str]:
    if path.endswith(POSITIONS):
        how = f"its first {shape[0]} rows" if shape[0] < len(array) else "its rows repeated"
        return fit_positions(array, shape[0]), how
    before = window_of_table(len(array))
    return fit_relative(array, before, window), f"cubic interpolation from window {before} to {window}"


def _cubic(old: int, new: int) -> np.ndarray:
    """Interpolation matrix `[new, old]` between grids whose ends coincide; values beyond the ends repeat the end."""
    position = np.arange(new) * (old - 1) / max(new - 1, 1) if new > 1 else np.array([(old - 1) / 2])
    base = np.floor(position).astype(int)
    matrix = np.zeros((new, old))
    for step in range(-1, 3):
        distance = np.abs(position - (base + step))
        near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
        far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(matrix, (np.arange(new), np.clip(base + step, 0, old - 1)), weight)
    return matrix
