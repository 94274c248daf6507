"""The command line: prepares once, recognises its work, refuses to overwrite, reports in one sentence."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def prepare(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "prepare.py"), "folder", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_prepare(folder_dataset, tmp_path, make_video):
    out = tmp_path / "out"
    first = prepare("--data", folder_dataset, "--out", out)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[0].split() == [
        "split", "videos", "captions", "questions", "choices", "hours", "unreadable", "MB",
    ]  # fmt: skip
    assert first.stdout.splitlines()[1].split()[:7] == ["train", "16", "48", "16", "16", "0.01", "3"]
    written = {file: file.stat().st_mtime_ns for file in out.iterdir()}

    again = prepare("--data", folder_dataset, "--out", out)
    assert again.returncode == 0 and "already prepared" in again.stdout
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == written

    make_video(tmp_path / "other" / "videos" / "a.mp4", 3)
    (tmp_path / "other" / "train.jsonl").write_text('{"video": "a.mp4", "captions": ["x"]}\n')
    other = prepare("--data", tmp_path / "other", "--out", out)
    assert other.returncode == 2
    assert other.stderr == f"error: {out}: holds a dataset made from other data; delete it or choose another --out\n"
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == written
