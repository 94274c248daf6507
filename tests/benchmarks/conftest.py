"""Benchmarks are scripts that import each other; tests import what they test from there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load_benchmark(monkeypatch) -> Iterator[Callable[[str], ModuleType]]:
    """`load_benchmark("timing")` is the module benchmarks/timing.py. Afterwards none is loaded: their names are common."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for file in BENCHMARKS.glob("*.py"):
        sys.modules.pop(file.stem, None)
