"""The benchmark of mining: its captions are varied and repeatable, and (slow) all of it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def captions(load_benchmark):
    return load_benchmark("captions").captions


def test_captions_are_varied_and_repeatable(captions):
    made = list(captions(5_000, seed=1))
    assert made == list(captions(6_000, seed=1))[:5_000] != list(captions(5_000, seed=2))
    assert len(set(made)) > 4_990
    words = {word for caption in made for word in caption.lower().split()}
    few = {word for caption in captions(5_000, seed=1, names=1) for word in caption.lower().split()}
    assert len(words) > 1_500 > len(few)


@pytest.mark.slow
def test_everything_runs(tmp_path):
    file = tmp_path / "words.json"
    command = [sys.executable, BENCHMARKS / "words.py", "--json", file, "--captions", "20000", "--rounds", "1"]
    subprocess.run([*command, "--root", tmp_path / "corpus"], check=True, cwd=BENCHMARKS.parent)
    summary = json.loads(file.read_text())["summary"]
    assert summary["same_bytes_after_a_kill"] and summary["captions"] == {"tenth": 2_000, "whole": 20_000}
