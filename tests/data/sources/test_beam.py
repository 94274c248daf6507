"""Apache Beam writes the same files as a plain preparation, on millions of clips as on these few."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from snp_jax.data.sources import beam, catalog, planning, prepare, prepared, workers
from snp_jax.data.sources.builder import builder_for
from snp_jax.data.sources.prepare import Options
from snp_jax.data.sources.shards import write_shard
from snp_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
RUNNER = ["--runner=FnApiRunner"]  # the DirectRunner's own engine, without looking for another one


@pytest.fixture
def apache_beam(monkeypatch):
    """Beam, with shards written in its own process."""
    monkeypatch.setattr(workers, "write_shards", here)
    monkeypatch.setattr(planning, "EXAMPLES_PER_SHARD", 3)
    return pytest.importorskip("apache_beam", reason="the extra beam is not installed")


def here(tasks, **options):
    for task in tasks:
        write_shard(task, {}, lambda position: None)


@pytest.fixture(scope="module")
def cc3m(tmp_path_factory, make_image):
    """Two of img2dataset's tar files with four images each, one of them broken."""
    root = tmp_path_factory.mktemp("cc3m")
    (root / "training").mkdir()
    for number in range(2):
        with tarfile.open(root / "training" / f"{number:05d}.tar", "w") as tar:
            for key in range(4):
                image = make_image(root / "i.jpg", colour=(50 * key, 90 * number, 30)).read_bytes()
                contents = {"jpg": b"<html>" if (number, key) == (1, 2) else image, "txt": b"text %d" % key}
                for suffix, content in contents.items():
                    member = tarfile.TarInfo(f"{number:05d}{key:04d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return root


@pytest.fixture(scope="module")
def webvid(tmp_path_factory, make_video):
    """Four clips, one of which is not there."""
    root = tmp_path_factory.mktemp("webvid")
    rows = [f"{i},caption {i},page{i % 2}" for i in range(4)]
    (root / "results_2M_train.csv").write_text("\n".join(["videoid,name,page_dir", *rows]) + "\n")
    for i in range(3):
        make_video(root / "videos" / f"page{i % 2}" / f"{i}.mp4", 4 + i)
    return root


def files(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def run(name, manual, out, **options):
    dataset = catalog.find(name)
    how = Options(allow_missing=True, **options)
    return prepare.prepare(dataset.read(manual), builder_for(dataset, str(out.parent)), out, how)


@pytest.mark.parametrize("name", ["cc3m", "webvid/2m"])
def test_the_files_are_those_of_a_plain_preparation(name, request, apache_beam, tmp_path):
    manual = request.getfixturevalue(name.partition("/")[0])
    run(name, manual, tmp_path / "plain")
    run(name, manual, tmp_path / "beam", beam=lambda: beam.pipeline(RUNNER))
    assert files(tmp_path / "beam") == files(tmp_path / "plain")
    summary = prepared.read_summaries(tmp_path / "beam")["train"]
    assert (summary.videos, summary.unreadable, summary.missing) == {"cc3m": (8, 1, 0), "webvid/2m": (3, 0, 1)}[name]
    assert len(list((tmp_path / "beam").glob("*.array_record*"))) == {"cc3m": 3, "webvid/2m": 1}[name]
    assert not (tmp_path / ".beam.part").exists()


def test_a_killed_preparation_goes_on_with_beam(cc3m, apache_beam, tmp_path, monkeypatch):
    done = []

    def killed(tasks, **options):
        if done:
            raise KeyboardInterrupt
        done.append(here(tasks[:1]))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(workers, "write_shards", killed)
        with pytest.raises(KeyboardInterrupt):
            run("cc3m", cc3m, tmp_path / "out")
    (finished,) = (tmp_path / ".out.part").glob("*/*.array_record*-of-00003")
    before = finished.stat().st_ino
    assert run("cc3m", cc3m, tmp_path / "out", beam=lambda: beam.pipeline(RUNNER))
    assert (tmp_path / "out" / finished.name).stat().st_ino == before  # not written again
    assert prepared.read_summaries(tmp_path / "out")["train"].videos == 8


@pytest.mark.slow
def test_from_the_command_line(cc3m, tmp_path):
    """Worker processes and all."""
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    command = [sys.executable, str(ROOT / "tools/prepare.py"), "cc3m", "--manual-dir", str(cc3m), "--allow-missing"]
    for out, more in {"plain": [], "beam": ["--beam", "--runner=DirectRunner"]}.items():
        subprocess.run([*command, "--out", str(tmp_path / out), *more], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert files(tmp_path / "beam") == files(tmp_path / "plain")


def test_through_tfds(webvid, apache_beam, tmp_path):
    """TFDS's own call, its own arguments; the dataset is complete only with all files."""
    manual = tmp_path / "manual"
    manual.mkdir()
    (manual / "mytrain.csv").write_text("videoid,name,page_dir\n0,a,page0\n1,b,page1\n")
    (manual / "videos").symlink_to(webvid / "videos")
    made = tfds.builder("snp_webvid/any", data_dir=str(tmp_path / "data"))
    config = tfds.download.DownloadConfig(manual_dir=str(manual), beam_runner="FnApiRunner")
    made.download_and_prepare(download_config=config)
    assert len(prepared.open_source(made.data_dir, "train")) == 2


def test_a_failure_is_one_sentence(cc3m, apache_beam, tmp_path, monkeypatch):
    def full(task, refused, report):
        raise UserError("the dataset cannot be written (No space left on device)")

    monkeypatch.setattr(sys.modules[__name__], "write_shard", full)
    with pytest.raises(UserError, match="Beam pipeline failed .*No space left.*run the same command again"):
        run("cc3m", cc3m, tmp_path / "out", beam=lambda: beam.pipeline(RUNNER))
    assert not (tmp_path / "out").exists()


def test_no_such_runner(apache_beam):
    with pytest.raises(UserError, match="--runner=Nothing"):
        beam.pipeline(["--runner=Nothing"])


def test_without_beam(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'snp-jax\[beam\]'"):
        beam.pipeline([])
