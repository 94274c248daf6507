"""The command line: prepares once, recognises its work, refuses to overwrite, reports in one sentence."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def prepare(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "prepare.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_prepare(folder_dataset, tmp_path, make_video):
    out = tmp_path / "out"
    first = prepare("folder", "--data", folder_dataset, "--out", out)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[0].split() == [
        "split", "videos", "captions", "questions", "choices", "hours", "missing", "broken", "MB",
    ]  # fmt: skip
    assert first.stdout.splitlines()[1].split()[:8] == ["train", "16", "48", "16", "16", "0.01", "0", "3"]
    assert "storing: 100%" in first.stderr
    assert first.stdout.splitlines()[-1] == f"{out}/broken.jsonl lists what is broken"
    written = {file: file.stat().st_mtime_ns for file in out.iterdir()}

    again = prepare("folder", "--data", folder_dataset, "--out", out)
    assert again.returncode == 0 and "already prepared" in again.stdout
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == written

    make_video(tmp_path / "other" / "videos" / "a.mp4", 3)
    (tmp_path / "other" / "train.jsonl").write_text('{"video": "a.mp4", "captions": ["x"]}\n')
    other = prepare("folder", "--data", tmp_path / "other", "--out", out)
    assert other.returncode == 2
    message = f"error: {out}: holds a dataset made from other data; delete it or choose another --out"
    assert other.stderr.splitlines()[-1] == message
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_an_official_dataset_that_is_not_complete(make_video, tmp_path):
    """Both numbers in one sentence; with --allow-missing the rest, and a list of what is missing."""
    manual = tmp_path / "msvd"
    make_video(manual / "YouTubeClips" / "a_1_2.avi", 12, codec="mpeg4")
    for split, videos in {"train": "a_1_2\nb_3_4", "val": "", "test": ""}.items():
        (manual / f"{split}_list.txt").write_text(videos)
    (manual / "captions_msvd.json").write_text(json.dumps({"a_1_2": ["a dog", "a cat"], "b_3_4": ["a cow"]}))
    refused = prepare("msvd", "--manual-dir", tmp_path, "--out", tmp_path / "out")
    assert refused.returncode == 2 and not (tmp_path / "out").exists()
    assert "the train split has 2 annotated videos, published are 1,200;" in refused.stderr
    assert "1 of 2 files of the train split are missing (b_3_4)" in refused.stderr
    assert "or pass --allow-missing" in refused.stderr

    accepted = prepare("msvd", "--manual-dir", tmp_path, "--out", tmp_path / "out", "--allow-missing", "--jobs", "1")
    assert accepted.returncode == 0, accepted.stderr
    assert accepted.stdout.splitlines()[1].split()[:8] == ["train", "1", "2", "0", "0", "0.00", "1", "0"]
    assert "note: the train split has 2 annotated videos, published are 1,200" in accepted.stdout
    missing = [json.loads(line) for line in (tmp_path / "out" / "missing.jsonl").read_text().splitlines()]
    assert missing == [{"split": "train", "video_id": "b_3_4", "what": "file"}]


def test_names(tmp_path):
    assert "coco2017/official" in prepare("--help").stdout
    wrong = prepare("mrsvtt_qa", "--manual-dir", tmp_path, "--out", tmp_path / "out")
    assert wrong.returncode == 2 and wrong.stderr == "error: mrsvtt_qa: no such dataset; did you mean msrvtt_qa?\n"
    misspelt = prepare("msrvt", "--manual-dir", tmp_path, "--out", tmp_path / "out")
    hint = "did you mean msrvtt/7k_1ka or msrvtt/9k_1ka or msrvtt/6k_1ka?"
    assert misspelt.stderr == f"error: msrvt: no such dataset; {hint}\n"
    unclear = prepare("msrvtt", "--manual-dir", tmp_path, "--out", tmp_path / "out")
    assert unclear.stderr == "error: msrvtt: choose one of msrvtt/7k_1ka, msrvtt/9k_1ka, msrvtt/6k_1ka\n"
