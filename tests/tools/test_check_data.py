"""The command line of the report."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def check(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "check_data.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)


def test_report(prepared_dataset, tmp_path):
    done = check("--data", prepared_dataset, "--out", tmp_path / "report", "--jobs", "1", "--samples", "3")
    assert done.returncode == 0, done.stderr
    assert "train: 16 examples, 64 captions and questions; 1 missing, 1 no_video_stream, 1 open" in done.stdout
    assert "train and val share 0 ids, 4 files, 0 captions or questions" in done.stdout  # videos of equal length are equal
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(report["splits"]["train"]["broken_names"]) == {"empty", "text", "sound"}
    assert (tmp_path / "report" / "report.html").read_text().count("<figure>") == 6


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_damaged_record_file(prepared_dataset, tmp_path, jobs):
    """A hole, as a failing disk or an interrupted copy leaves it; read in this process and in a worker."""
    copy = shutil.copytree(prepared_dataset, tmp_path / "copy")
    file = next(copy.glob("*-train.array_record*"))
    content = bytearray(file.read_bytes())
    content[1000:1500] = bytes(500)  # after the file's signature: the first record
    file.write_bytes(content)
    done = check("--data", copy, "--out", tmp_path / "report", "--jobs", jobs)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {copy}: record ") and "of the train split cannot be read" in last
    assert last.endswith("its file is damaged or gone; copy the dataset again, or delete it and prepare it again")
    assert "Traceback" not in done.stderr


def test_not_a_dataset(tmp_path):
    done = check("--data", tmp_path, "--out", tmp_path / "report")
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path}: not a prepared dataset")
    assert not (tmp_path / "report").exists()
