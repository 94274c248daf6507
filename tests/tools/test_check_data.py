"""The command line of the report."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def check(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "check_data.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)


def test_report(prepared_dataset, tmp_path):
    done = check("--data", prepared_dataset, "--out", tmp_path / "report", "--jobs", "1", "--samples", "3")
    assert done.returncode == 0, done.stderr
    assert "train: 16 examples, 64 captions; 1 missing, 1 no_video_stream, 1 open" in done.stdout
    assert "train and val share 0 ids, 4 files, 0 captions" in done.stdout  # videos of equal length are equal
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(report["splits"]["train"]["broken_names"]) == {"empty", "text", "sound"}
    assert (tmp_path / "report" / "report.html").read_text().count("<figure>") == 6


def test_not_a_dataset(tmp_path):
    done = check("--data", tmp_path, "--out", tmp_path / "report")
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path}: not a prepared dataset")
    assert not (tmp_path / "report").exists()
