"""Preparation: what a kill at any moment leaves, what comes of dead and blocked workers, and every way to fail."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snp_jax.data.records import Annotation
from snp_jax.data.sources import catalog, planning, prepare, prepared, shards, workers
from snp_jax.data.sources.builder import builder_for
from snp_jax.data.sources.prepare import Options
from snp_jax.data.sources.rows import Expected, Media, Reading, Row, Split
from snp_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def clips(tmp_path_factory, make_video):
    """Six videos of different lengths."""
    root = tmp_path_factory.mktemp("clips")
    return [make_video(root / f"v{i}.mp4", 5 + i) for i in range(6)]


def rows(paths):
    return [Row(Annotation(path.stem, (f"caption of {path.stem}",)), Media.file(path)) for path in paths]


def reading(*splits):
    return Reading("folder", splits)


def run(what, out, **options):
    return prepare.prepare(what, builder_for(catalog.find("folder"), str(out.parent)), out, Options(**options))


def contents(directory):
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def complaint(what, out, **options):
    with pytest.raises(UserError) as caught:
        run(what, out, **options)
    assert not out.exists()
    return str(caught.value)


def stored(out, split="train"):
    source = prepared.open_source(out, split)
    return {source[i].annotation.video_id: source[i].video for i in range(len(source))}


def test_the_result_does_not_depend_on_jobs_and_is_listed(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "EXAMPLES_PER_SHARD", 2)
    what = reading(Split("train", rows(clips[:5])), Split("val", rows(clips[5:])))
    assert run(what, tmp_path / "one", jobs=1)
    assert run(what, tmp_path / "three", jobs=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "dataset_info.json", "features.json", "prepared.json", "sizes_train.npy", "sizes_val.npy",
        *(f"snp_folder-train.array_record-0000{i}-of-00003" for i in range(3)), "snp_folder-val.array_record-00000-of-00001",
    ]  # fmt: skip
    assert stored(tmp_path / "one") == {path.stem: path.read_bytes() for path in clips[:5]}
    assert not run(what, tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "three"]


_PREPARE = """
import sys
from snp_jax.data.sources import planning
planning.EXAMPLES_PER_SHARD = 3
sys.argv = ["prepare.py", "folder", "--data", sys.argv[1], "--out", sys.argv[2], "--jobs", "2"]
sys.path.insert(0, "tools")
import prepare
if __name__ == "__main__":
    prepare.run_cli(prepare.main)
"""


def start_preparation(data, out, script):
    script.write_text(_PREPARE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tools")])}
    return subprocess.Popen(
        [sys.executable, str(script), str(data), str(out)], env=environment, cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_and_resumed_is_byte_identical(kills, folder_dataset, tmp_path):
    """SIGKILL at random moments; each time nothing that looks complete is left, in the end all bytes are the same."""
    started = time.monotonic()
    calm = start_preparation(folder_dataset, tmp_path / "calm", tmp_path / "calm.py")
    assert calm.wait(timeout=120) == 0, calm.stderr.read()
    duration = time.monotonic() - started
    out, rng = tmp_path / "out", random.Random(kills)
    killed = 0
    for _ in range(20 * kills):
        process = start_preparation(folder_dataset, out, tmp_path / "killed.py")
        try:
            process.wait(timeout=rng.uniform(0.4, 1.0) * duration)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            assert contents(out) == contents(tmp_path / "calm")
            for path in out.iterdir():
                path.unlink()
            out.rmdir()
        else:
            assert process.returncode == -signal.SIGKILL
            if out.exists():  # killed after the last step
                assert contents(out) == contents(tmp_path / "calm")
            killed += 1
        if killed == kills:
            break
    assert killed == kills
    last = start_preparation(folder_dataset, out, tmp_path / "killed.py")
    assert last.wait(timeout=120) == 0, last.stderr.read()
    assert contents(out) == contents(tmp_path / "calm")
    assert not (tmp_path / ".out.part").exists()


def test_resuming_does_not_write_finished_shards_again(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "EXAMPLES_PER_SHARD", 1)
    what = reading(Split("train", rows(clips[:3])))

    def stop(tasks, **options):
        shards.write_shard(tasks[0], {}, lambda position: None)
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(workers, "write_shards", stop)
        run(what, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    written = []
    whole = workers.write_shards
    monkeypatch.setattr(workers, "write_shards", lambda tasks, **options: (written.extend(tasks), whole(tasks, **options)))
    run(what, tmp_path / "out")
    assert [task.shard.index for task in written] == [1, 2]
    assert len(stored(tmp_path / "out")) == 3

    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(workers, "write_shards", stop)
        run(what, tmp_path / "other")
    written.clear()
    run(reading(Split("train", rows(clips[3:]))), tmp_path / "other")  # other data: begins again
    assert len(written) == 3 and set(stored(tmp_path / "other")) == {"v3", "v4", "v5"}


def write_all(tasks, **options):
    progress = []
    workers.write_shards(tasks, **{"jobs": 1, "silent_s": 60.0, "progress": progress.append, **options})
    return sum(progress)


def tasks_of(what, directory):
    plan = planning.make_plan(what, directory, allow_missing=True, settings="", progress=lambda: None)
    return [shards.ShardTask(shard, plan.rows_file, directory / f"shard-{shard.index}") for shard in plan.shards["train"]]


def test_a_killed_worker_is_replaced(clips, tmp_path):
    tasks = tasks_of(reading(Split("train", rows(clips))), tmp_path)
    killed = []

    def kill_once(amount):
        if not killed:
            (process,) = multiprocessing.active_children()
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)

    workers.write_shards(tasks, jobs=1, silent_s=60.0, progress=kill_once)
    counts = shards.counts_of(tasks[0].path)
    assert killed and (counts.videos, counts.broken) == (6, [])


def test_a_file_that_blocks_its_worker_is_refused(clips, tmp_path):
    """A pipe that nobody writes to stands in for a decoder that never returns."""
    os.mkfifo(tmp_path / "pipe")
    blocked = Row(Annotation("blocked", ("x",)), Media(str(tmp_path / "pipe"), 5))
    tasks = tasks_of(reading(Split("train", [*rows(clips[:2]), blocked])), tmp_path)
    assert write_all(tasks, silent_s=4.0) == 3
    counts = shards.counts_of(tasks[0].path)
    assert counts.videos == 3
    assert counts.broken == [["blocked", "crash: a process that decoded this file said nothing for 4 s"]]


def test_workers_that_cannot_start_end_the_run(clips, tmp_path, monkeypatch):
    tasks = tasks_of(reading(Split("train", rows(clips))), tmp_path)
    monkeypatch.setattr(workers, "_work", os.abort)  # not what is pickled: the name is looked up in the new process
    monkeypatch.setattr(workers._Pool, "_give", lambda self, worker: (setattr(worker, "task", 0), worker.process.kill()))
    with pytest.raises(UserError, match="ended with signal 9 before it read a file, 3 times; run the same command again"):
        write_all(tasks)


def test_missing_files(clips, tmp_path):
    gone = Row(Annotation("gone", ("x", "y")), None)
    what = reading(
        Split("train", [*rows(clips[:2]), gone]),
        Split("test", [*rows(clips[2:4]), Row(Annotation("away", ("z",)), None)], keep_missing=True),
    )
    assert complaint(what, tmp_path / "out") == (
        "folder: 1 of 3 files of the train split are missing (gone); 1 of 3 files of the test split are missing (away); "
        "complete the data, or pass --allow-missing to go on without "
        "(what is missing is then listed in missing.jsonl of the dataset)"
    )
    assert not (tmp_path / ".out.part").exists()
    run(what, tmp_path / "out", allow_missing=True)
    assert set(stored(tmp_path / "out")) == {"v0", "v1"}
    assert stored(tmp_path / "out", "test")["away"] == b""  # its query stays in the evaluation
    summaries = prepared.read_summaries(tmp_path / "out")
    assert (summaries["train"].videos, summaries["train"].captions, summaries["train"].missing) == (2, 2, 1)
    assert (summaries["test"].videos, summaries["test"].missing, summaries["test"].unreadable) == (3, 1, 0)


def test_published_sizes(clips, tmp_path):
    def split(**expected):
        return Split("train", rows(clips), Expected(**expected), roster=["v0", "v9"])

    message = complaint(reading(split(videos=7, captions=6)), tmp_path / "out")
    assert message.startswith("folder: the train split has 6 annotated videos, published are 7; complete the data")
    run(reading(split(videos=7)), tmp_path / "out", allow_missing=True)
    assert json.loads((tmp_path / "out" / "missing.jsonl").read_text()) == {
        "split": "train", "video_id": "v9", "what": "annotation",
    }  # fmt: skip
    run(reading(split(videos=1_000, certain=False)), tmp_path / "quoted")  # quoted numbers are a note
    assert prepared.read_notes(tmp_path / "quoted") == ["the train split has 6 annotated videos, published are 1,000"]


def test_an_id_that_comes_twice(clips, tmp_path):
    what = reading(Split("train", rows(clips)), Split("val", rows(clips[2:3])))
    assert complaint(what, tmp_path / "out").startswith('folder: the id "v2" comes twice')


def test_nothing_there(tmp_path):
    what = reading(Split("train", [Row(Annotation("a", ("x",)), None)]))
    assert "none of the annotated files are there; check --manual-dir" in complaint(what, tmp_path / "out", allow_missing=True)


def test_fingerprint_follows_the_content(clips, tmp_path):
    def fingerprint(listed, **options):
        options = {"allow_missing": True, "settings": "", "progress": lambda: None, **options}
        return planning.make_plan(reading(Split("train", listed)), tmp_path, **options).fingerprint

    same = rows(clips)
    assert fingerprint(same) == fingerprint(rows(clips))
    fits = tuple(frozenset(f"v{i}" for i in range(30)) for _ in range(2))
    script = (
        "from snp_jax.data.records import *; from snp_jax.data.sources import planning;"
        "from snp_jax.data.sources.rows import *; from pathlib import Path; import sys;"
        "a = Annotation('a', ('x', 'y'), fits=tuple(frozenset(f'v{i}' for i in range(30)) for _ in range(2)));"
        "r = Reading('folder', (Split('train', [Row(a, Media('p', 3))]),));"
        "print(planning.make_plan(r, Path(sys.argv[1]), allow_missing=True, settings='', progress=lambda: None).fingerprint)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()  # the order of a set of strings differs from process to process
    assert fingerprint([Row(Annotation("a", ("x", "y"), fits=fits), Media("p", 3))]) == other
    assert fingerprint(same, settings="reencoded") != fingerprint(same)
    assert fingerprint([Row(same[0].annotation, Media(same[0].media.path, 1)), *same[1:]]) != fingerprint(same)
    assert fingerprint([Row(Annotation("v0", ("other",)), same[0].media), *same[1:]]) != fingerprint(same)
    assert fingerprint([Row(row.annotation, Media("moved", row.media.size)) for row in same]) == fingerprint(same)


def test_a_file_that_changes_in_between(clips, tmp_path):
    what = reading(Split("train", [Row(Annotation("a", ("x",)), Media(str(clips[0]), 10**6))]))
    message = complaint(what, tmp_path / "out")
    assert message == f"{clips[0]}: has changed while the dataset was prepared; run the same command again"


def test_a_full_disk_is_one_sentence(clips, tmp_path, monkeypatch):
    """ArrayRecord's words, as a tmpfs of 1 MB brought them out."""

    class Full:
        def __init__(self, *options):
            raise RuntimeError("write() failed: No space left on device; writing x; at byte 1048576")

    task = tasks_of(reading(Split("train", rows(clips))), tmp_path)[0]
    monkeypatch.setattr(shards.array_record_module, "ArrayRecordWriter", Full)
    with pytest.raises(UserError) as caught:
        shards.write_shard(task, {}, lambda position: None)
    assert str(caught.value) == (
        "the dataset cannot be written (write() failed: No space left on device); free some space or choose another --out"
    )
    assert shards.counts_of(task.path) is None


def test_one_preparation_at_a_time(clips, tmp_path, monkeypatch):
    def meanwhile(tasks, **options):
        with pytest.raises(UserError, match="another process is preparing this dataset"):
            run(what, tmp_path / "out")
        raise KeyboardInterrupt

    what = reading(Split("train", rows(clips)))
    monkeypatch.setattr(workers, "write_shards", meanwhile)
    with pytest.raises(KeyboardInterrupt):
        run(what, tmp_path / "out")


def test_opening_what_is_not_there(prepared_dataset, tmp_path):
    with pytest.raises(UserError, match="there is no dataset; write it with tools/prepare.py"):
        prepared.open_source(tmp_path / "no", "train")
    with pytest.raises(UserError, match="not a prepared dataset"):
        prepared.open_source(tmp_path, "train")
    with pytest.raises(UserError, match='has no split "test"; it has train, val'):
        prepared.open_source(prepared_dataset, "test")
