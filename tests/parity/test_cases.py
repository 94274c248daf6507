"""The recorded cases of `tests/goldens` that are quick, through the parity tool's own code; the rest with -m slow.

The larger ones are in `tests/models` and `tests/train` too, array by array.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from snp_jax.parity.golden import find_goldens
from snp_jax.parity.run import format_result, run_case

ROOT = Path(__file__).resolve().parents[2]
OWN, SHARED = ROOT / "tests" / "goldens", ROOT.parent / "shared" / "goldens"
QUICK = (
    "bert", "collate_mask", "frame_sampling", "lr_schedule", "metrics", "metrics_ties", "milnce", "optimizer_multichoice",
    "s3_masking", "swin_deep_clip", "vwm",
)  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_quick_case(name):
    result = run_case(OWN / f"{name}.json")
    assert result.passed, format_result(result)
    assert result.checks


@pytest.mark.slow
def test_every_case_that_is_there():
    files = find_goldens(SHARED if SHARED.is_dir() else OWN)
    assert len(files) >= 15
    failed = [format_result(result) for result in map(run_case, files) if not result.passed]
    assert not failed, "\n".join(failed)


def test_the_tool(tmp_path):
    for name in ("milnce", "lr_schedule"):
        for file in OWN.glob(f"{name}.*"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    command = [
        sys.executable,
        str(ROOT / "tools" / "parity.py"),
        "--goldens",
        str(tmp_path),
        "--json",
        str(tmp_path / "out" / "p"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("lr_schedule") and lines[1].startswith("milnce") and "gradients" in lines[1]
    assert lines[-1] == "2 passed, 0 failed"
    report = json.loads((tmp_path / "out" / "p").read_text())
    assert report["passed"] == 2 and report["cases"][1]["checks"][0]["relative"] < 1e-4

    (tmp_path / "unheard_of.json").write_text("{}")
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 1
    assert "unheard_of" in done.stdout and "no such kind of case is known" in done.stdout
