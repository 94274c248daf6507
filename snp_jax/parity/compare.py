"""Compares our numbers with recorded ones and keeps the account: what was compared, how far off, what was left out and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from snp_jax.parity.golden import Golden

FORWARD = 1e-4
"""Largest error of outputs and losses, relative to the largest magnitude of the recorded array."""
GRADIENT = 1e-3
"""The same for gradients."""
KINDS = ("output", "loss", "gradient")
SMALLEST = 1e-3
"""A gradient counts as no smaller than this share of the case's largest: some are zero but for rounding."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One array.

    Attributes:
        kind: one of `KINDS`.
        name: the recorded array's.
        absolute: largest difference.
        relative: the same over the largest magnitude of the recorded array (a gradient's is at least `SMALLEST`).
        passed: within tolerance.
        note: why, where it is not plain.
    """

    kind: str
    name: str
    absolute: float
    relative: float
    passed: bool
    note: str = ""


class Account:
    """The comparisons of one case. A recorded output or gradient that is neither compared nor waived fails the case."""

    def __init__(self, golden: Golden):
        self.golden = golden
        self.checks: list[Check] = []
        self.waived: dict[str, str] = {}
        gradients = [array for name, array in golden.arrays.items() if name.startswith("grad/") and array.size]
        self._smallest = SMALLEST * max((float(np.abs(array).max()) for array in gradients), default=0.0)

    def output(self, name: str, got: Any) -> None:
        """Compares an array with the recorded `name` at forward tolerance."""
        self._compare("output", name, got, FORWARD, 0.0)

    def outputs(self, prefix: str, got: Mapping[str, Any]) -> None:
        """`output` for each of `got` that was recorded below `prefix`."""
        for name, array in got.items():
            if prefix + name in self.golden:
                self.output(prefix + name, array)

    def loss(self, name: str, got: Any) -> None:
        """Compares a loss with the recorded `name`."""
        self._compare("loss", name, got, FORWARD, 0.0)

    def gradient(self, name: str, got: Any) -> None:
        """Compares a gradient with the recorded `name`."""
        self._compare("gradient", name, got, GRADIENT, self._smallest)

    def gradients(self, got: Mapping[str, Any], prefix: str = "grad/") -> None:
        """Compares every recorded gradient; `got` is by foreign parameter name."""
        for name in self.golden.group(prefix):
            if name in got:
                self.gradient(prefix + name, got[name])

    def exact(self, name: str, got: Any, wanted: Any = None) -> None:
        """Compares integers, masks or counts, which have to be equal; `wanted` is the recorded `name` unless given."""
        wanted = np.asarray(self.golden[name] if wanted is None else wanted)
        got = np.asarray(got)
        if got.shape != wanted.shape:
            self._add("output", name, np.inf, np.inf, False, f"shape {got.shape}, recorded {wanted.shape}")
            return
        wrong = int(np.count_nonzero(got != wanted))
        self._add("output", name, float(wrong > 0), float(wrong > 0), wrong == 0, f"{wrong} values differ" if wrong else "")

    def value(self, name: str, got: float, wanted: float) -> None:
        """Compares a number with one recorded outside the arrays."""
        error = abs(got - wanted)
        relative = error / abs(wanted) if wanted else float(error > 0)
        self._add("output", name, error, relative, relative <= FORWARD)

    def rule(self, name: str, passed: bool, note: str = "") -> None:
        """Records whether a rule holds that recorded random draws have to obey."""
        self._add("output", name, 0.0 if passed else 1.0, 0.0 if passed else 1.0, passed, "" if passed else note)

    def waive(self, name: str, reason: str) -> None:
        """Leaves a recorded array out, and says why."""
        if name in self.golden:
            self.waived[name] = reason

    def close(self) -> None:
        """Fails what was forgotten."""
        compared = {check.name for check in self.checks}
        for name in self.golden.arrays:
            if name.startswith(("out/", "grad/")) and name not in compared and name not in self.waived:
                kind = "gradient" if name.startswith("grad/") else "output"
                self._add(kind, name, np.inf, np.inf, False, "recorded, but not computed here")
        if not self.checks:
            self._add("output", self.golden.name, np.inf, np.inf, False, "nothing was compared")

    def _compare(self, kind: str, name: str, got: Any, tolerance: float, smallest: float) -> None:
        wanted, got = np.asarray(self.golden[name], np.float64), np.asarray(got, np.float64)
        if got.shape != wanted.shape:
            self._add(kind, name, np.inf, np.inf, False, f"shape {got.shape}, recorded {wanted.shape}")
            return
        if not got.size:
            self._add(kind, name, 0.0, 0.0, True)
            return
        difference = np.where(np.isnan(got) & np.isnan(wanted), 0.0, np.abs(got - wanted))
        absolute = float(np.where(np.isnan(difference), np.inf, difference).max())
        largest = max(float(np.abs(np.nan_to_num(wanted)).max()), smallest)
        relative = absolute / largest if largest else (0.0 if absolute == 0 else np.inf)
        within = relative <= tolerance
        self._add(kind, name, absolute, relative, within, "" if within else f"relative error above {tolerance:g}")

    def _add(self, kind: str, name: str, absolute: float, relative: float, passed: bool, note: str = "") -> None:
        self.checks.append(Check(kind, name, float(absolute), float(relative), bool(passed), note))
