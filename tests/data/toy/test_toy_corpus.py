"""The written folder: layout, determinism, resuming, refusing; and its command line."""

import json
import subprocess
import sys

import pytest

from snp_jax.data.toy.corpus import MARKER, write_corpus
from snp_jax.errors import UserError

SIZES = {"train": 20, "val": 5, "test": 10}


def annotation(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "deep" / "corpus"
    assert write_corpus(folder, 5, SIZES, jobs=1)
    return folder


def test_layout(corpus):
    for split, count in SIZES.items():
        rows = [json.loads(line) for line in (corpus / f"{split}.jsonl").read_text().splitlines()]
        assert len(rows) == count
        names = {row["video"].removesuffix(".mp4") for row in rows}
        for row in rows:
            assert (corpus / "videos" / row["video"]).stat().st_size > 1000
            assert len(row["captions"]) == len(row["fits"]) == 5
            assert len(row["options"]) == 5 and 0 <= row["option_answer"] < 5
            for fits in row["fits"]:
                assert set(fits) <= names - {row["video"].removesuffix(".mp4")}
    assert len(list((corpus / "videos").iterdir())) == sum(SIZES.values())
    assert "| test | 10 |" in (corpus / "README.md").read_text()


def test_processes_do_not_change_a_byte_and_the_command_line_writes_the_same(corpus, tmp_path):
    command = [sys.executable, "-m", "snp_jax.data.toy", "--out", str(tmp_path), "--seed", "5", "--jobs", "2"]
    command += [f"--{split}={count}" for split, count in SIZES.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "35 videos, seed 5" in done.stdout
    assert annotation(tmp_path) == annotation(corpus)
    for video in (corpus / "videos").iterdir():
        assert (tmp_path / "videos" / video.name).read_bytes() == video.read_bytes()


def test_complete_corpus_is_left_alone(corpus):
    before = (corpus / "README.md").stat().st_mtime_ns
    assert not write_corpus(corpus, 5, SIZES)
    assert (corpus / "README.md").stat().st_mtime_ns == before


def test_interrupted_run_has_no_annotation_and_is_finished(corpus, tmp_path, monkeypatch):
    from snp_jax.data.toy import corpus as module

    written = []

    def stop_after_three(*args):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(args)
        write_video(*args)

    write_video = module._write_video
    monkeypatch.setattr(module, "_write_video", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        write_corpus(tmp_path, 5, SIZES)
    assert set(annotation(tmp_path)) == {MARKER}
    first = next((tmp_path / "videos").iterdir())
    stamp = first.stat().st_mtime_ns
    monkeypatch.undo()
    assert write_corpus(tmp_path, 5, SIZES)
    assert first.stat().st_mtime_ns == stamp  # kept, not made again
    assert annotation(tmp_path) == annotation(corpus)


def test_other_seed_gives_other_texts(corpus, tmp_path):
    write_corpus(tmp_path, 6, {"train": 0, "val": 0, "test": 3})
    assert not (tmp_path / "train.jsonl").exists()
    assert (tmp_path / "test.jsonl").read_text() not in (corpus / "test.jsonl").read_text()


def test_refuses_what_it_did_not_make(corpus, tmp_path):
    with pytest.raises(UserError, match="another corpus.*'seed': 5.*'seed': 6"):
        write_corpus(corpus, 6, SIZES)
    with pytest.raises(UserError, match="another corpus"):
        write_corpus(corpus, 5, {**SIZES, "test": 11})
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and not a toy corpus"):
        write_corpus(tmp_path, 5, SIZES)
    with pytest.raises(UserError, match="is a file"):
        write_corpus(tmp_path / "thesis.txt", 5, SIZES)
    with pytest.raises(UserError, match="corpus sizes"):
        write_corpus(tmp_path / "new", 5, {**SIZES, "val": -1})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_marker_is_named(tmp_path):
    (tmp_path / MARKER).write_text("{")
    with pytest.raises(UserError, match=MARKER):
        write_corpus(tmp_path, 5, SIZES)


def test_command_line_reports_user_errors(corpus):
    command = [sys.executable, "-m", "snp_jax.data.toy", "--out", str(corpus), "--seed", "6"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "another corpus" in done.stderr
