"""Images and videos in one stream, sizes kept and padded, and the same stream through every kind of interruption."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streams import IN_PROCESS, SPEC, assert_equal, stream, take

from snp_jax.data import order
from snp_jax.data.failures import BrokenVideos
from snp_jax.data.mixture import open_mixture
from snp_jax.data.pipeline import Reading, eval_batches, open_source
from snp_jax.data.sources import picture_sizes

IMAGES = {"wide": (48, 96), "tall": (96, 48), "square": (64, 64), "small": (32, 64)}  # height, width
PADDED = dataclasses.replace(SPEC, fit="pad", image_size=(64, 64))
BUCKETED = dataclasses.replace(PADDED, buckets=((64, 64), (32, 64), (64, 32)), mask_repeats=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A prepared dataset of the `IMAGES`, four of each size, each one colour; "wide0" and so on."""
    from snp_jax.data.sources import catalog, folder
    from snp_jax.data.sources.builder import builder_for
    from snp_jax.data.sources.prepare import Options, prepare

    root = tmp_path_factory.mktemp("images")
    (root / "in" / "videos").mkdir(parents=True)
    lines = []
    for i, (name, size) in enumerate((name, size) for name, size in IMAGES.items() for _ in range(4)):
        Image.fromarray(np.full((*size, 3), 14 * i + 30, np.uint8)).save(root / "in" / "videos" / f"{name}{i % 4}.png")
        lines.append({"video": f"{name}{i % 4}.png", "captions": [f"caption {k} of {name}" for k in range(3)]})
    (root / "in" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = root / "images"
    prepare(folder.read_folder(root / "in"), builder_for(catalog.find("folder"), str(root)), out, Options())
    return out


@pytest.fixture(scope="module")
def mixture(prepared_dataset, images):
    return open_mixture([prepared_dataset, images], "train", weights=(2, 1))


@pytest.fixture
def small_windows(monkeypatch):
    """Positions of tiny datasets take long to look up (Grain shuffles by trial and error there)."""
    monkeypatch.setattr(order, "MIX_WINDOW", 32)
    monkeypatch.setattr(order, "BUCKET_WINDOW", 16)


def test_images_and_videos_in_one_batch(mixture, prepared_dataset):
    batches = take(stream(mixture, batch_size=12), 4)
    ids = [video_id for batch in batches for video_id in batch["video_id"].tolist()]
    assert sum(name.startswith("images:") for name in ids) in range(8, 25)  # about a third of 48
    assert {name.partition(":")[0] for name in ids} == {"images", Path(prepared_dataset).name}
    for batch in batches:
        for row, name in enumerate(batch["video_id"].tolist()):
            if name.startswith("images:"):
                assert batch["valid"][row] and batch["video_mask"][row].all()
                assert (batch["video"][row] == batch["video"][row, :1]).all()  # the N clips repeat it


def test_of_an_image_only_the_middle_clip_counts_where_asked_for(images):
    spec = dataclasses.replace(SPEC, mask_repeats=True, frames_per_clip=2)
    (batch,) = take(eval_batches(open_source(images, "train"), spec=spec, batch_size=16, reading=IN_PROCESS), 1)
    assert (batch["video_mask"] == [False, False, False, False, True, True, False, False]).all()
    assert batch["video"].all()  # the frames are there all the same: Video Swin looks at all of them


def test_broken_videos_of_a_mixture_are_counted_by_source(mixture):
    broken = BrokenVideos("mixed", mixture.sizes, max_share=1.0)
    for batch in take(stream(mixture), 30):
        broken.update(batch)
    assert broken.count == 3 and all(name.endswith((":empty", ":text", ":sound")) for name in broken.names())


def test_pictures_keep_their_shape(images):
    (batch,) = take(eval_batches(open_source(images, "train"), spec=PADDED, batch_size=16, reading=IN_PROCESS), 1)
    assert batch["video"].shape == (16, 4, 64, 64, 3) and batch["frame_size"].dtype == np.int32
    wanted = {"wide": (32, 64), "tall": (64, 32), "square": (64, 64), "small": (32, 64)}
    for name, frames, size in zip(batch["video_id"].tolist(), batch["video"], batch["frame_size"].tolist(), strict=True):
        assert tuple(size) == wanted[name[:-1]]
        height, width = size
        assert (np.ptp(frames[:, :height, :width].reshape(-1, 3), axis=0) <= 2).all() and frames[0, 0, 0, 0] >= 28
        assert not frames[:, height:].any() and not frames[:, :, width:].any()


def test_sizes_are_kept_when_a_dataset_is_prepared(images, prepared_dataset):
    source = open_source(images, "train")
    found = np.load(images / "sizes_train.npy")
    for i, size in enumerate(found.tolist()):
        assert tuple(size) == IMAGES[source[i].annotation.video_id[:-1]]
    assert sorted(map(tuple, np.load(prepared_dataset / "sizes_train.npy").tolist())) == [(0, 0)] * 3 + [(64, 64)] * 13


def test_sizes_of_an_older_dataset_are_looked_up_once(prepared_dataset, tmp_path, monkeypatch):
    old = shutil.copytree(prepared_dataset, tmp_path / "old")
    (old / "sizes_train.npy").unlink()
    source = open_source(old, "train")
    np.testing.assert_array_equal(picture_sizes.read_sizes(source), np.load(prepared_dataset / "sizes_train.npy"))
    monkeypatch.setattr(picture_sizes, "_first_size", None)
    np.testing.assert_array_equal(picture_sizes.read_sizes(source), np.load(prepared_dataset / "sizes_train.npy"))


def test_the_videos_of_a_batch_share_a_bucket(mixture):
    batches = take(stream(mixture, spec=BUCKETED), 64)
    shapes = {batch["video"].shape[2:4] for batch in batches}
    assert shapes == set(BUCKETED.buckets)
    whole = 0
    for batch in batches:
        canvas = batch["video"].shape[2:4]
        whole += (batch["frame_size"] == canvas).all()
    assert whole > 40  # the others are broken ones or the rest of several buckets


def test_evaluation_by_buckets_gives_every_video_once(images):
    batches = list(eval_batches(open_source(images, "train"), spec=BUCKETED, batch_size=5, reading=IN_PROCESS))
    assert [batch["video"].shape[2:4] for batch in batches] == [(64, 64), (32, 64), (32, 64), (64, 32)]
    assert sorted(i for batch in batches for i in batch["index"].tolist() if i >= 0) == list(range(16))


@pytest.mark.parametrize("hosts", [4])
def test_hosts_share_every_batch_of_a_mixture_with_buckets(mixture, hosts, small_windows):
    whole = take(stream(mixture, spec=BUCKETED), 6)
    parts = [take(stream(mixture, spec=BUCKETED, rows=range(host, 4, hosts)), 6) for host in range(hosts)]
    for step, batch in enumerate(whole):
        for host in range(hosts):
            assert_equal([parts[host][step]], [{name: values[host::hosts] for name, values in batch.items()}])


def test_a_place_in_other_data_is_refused(mixture, prepared_dataset, images):
    state = stream(mixture).get_state()
    other = open_mixture([prepared_dataset, images], "train", weights=(1, 1))
    with pytest.raises(Exception, match="saved with mixture"):
        stream(other).set_state(state)
    state = stream(mixture, spec=BUCKETED).get_state()
    with pytest.raises(Exception, match="saved with buckets"):
        stream(mixture, spec=dataclasses.replace(BUCKETED, buckets=((64, 64), (32, 64)))).set_state(state)


# ---------------------------------------------------------------------- interruptions
def account(batch, read_number):
    """What a batch holds: (video, caption, frame indices) of every row. Frames of `write_video` show their number."""
    return [
        [name, int(caption[0]), [read_number(frame[:h, :w]) for frame in frames], [int(h), int(w)]]
        for name, caption, frames, (h, w) in zip(
            batch["video_id"].tolist(), batch["text_ids"], batch["video"], batch["frame_size"], strict=True
        )
    ]


STEPS = 60
KILLED_STEPS = 300


def test_twenty_interruptions_leave_the_stream_as_it_is(mixture, read_number, small_windows):
    """In one process; the reading changes from one to the next."""
    expected = [account(batch, read_number) for batch in take(stream(mixture, spec=BUCKETED), STEPS)]
    rng, state, seen = random.Random(0), None, []
    stops = sorted(rng.sample(range(1, STEPS), 20)) + [STEPS]
    for stop in stops:
        reading = Reading(num_workers=0, num_threads=rng.choice((1, 2, 3)), buffer=rng.choice((1, 4, 9)))
        batches = stream(mixture, reading, spec=BUCKETED)
        if state:
            batches.set_state(json.loads(state))
        while len(seen) < stop:
            seen.append(account(next(batches), read_number))
            state = json.dumps(batches.get_state())
        batches.close()
    assert seen == expected


_RUN = """
import json, sys, time
from pathlib import Path
import conftest
from snp_jax.data.mixture import open_mixture
from snp_jax.data.pipeline import Reading
from streams import stream
from test_pipeline_mixture import BUCKETED, KILLED_STEPS, account

def main():
    log, workers, *paths = sys.argv[1:]
    log = Path(log)
    batches = stream(open_mixture(paths, "train", weights=(2, 1)), Reading(int(workers), 2, 3), spec=BUCKETED)
    saved = log.with_suffix(".state")
    step = 0
    if saved.exists():
        step, state = json.loads(saved.read_text())
        batches.set_state(state)
    while step < KILLED_STEPS:
        part = saved.with_suffix(".part")  # save, draw, step: as the training loop
        part.write_text(json.dumps([step, batches.get_state()]))
        part.replace(saved)
        seen = account(next(batches), conftest.frame_number)
        with log.open("a") as file:
            file.write("\\n" + json.dumps([step, seen]) + "\\n")
        step += 1
        time.sleep(0.05)
    batches.close()

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_twenty_kills_leave_the_stream_as_it_is(prepared_dataset, images, read_number, tmp_path):
    """SIGKILL at random moments, with another number of worker processes each time."""
    mixture = open_mixture([prepared_dataset, images], "train", weights=(2, 1))
    expected = [account(batch, read_number) for batch in take(stream(mixture, spec=BUCKETED), KILLED_STEPS)]
    script, log, rng = tmp_path / "run.py", tmp_path / "log.jsonl", random.Random(1)
    script.write_text(_RUN)
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (here, here.parent, here.parents[1])))}

    def start():
        command = [sys.executable, str(script), str(log), str(rng.choice((0, 1, 2, 3))), str(prepared_dataset), str(images)]
        return subprocess.Popen(command, env=environment)

    for kill in range(20):
        length = len(log.read_text().splitlines()) if log.exists() else 0
        process = start()
        goal = length + rng.randint(0, 3)  # also before the first batch, and in the middle of one
        while process.poll() is None and (len(log.read_text().splitlines()) if log.exists() else 0) < goal:
            time.sleep(0.02)
        time.sleep(rng.random() * 0.3)
        assert process.poll() is None, f"ended by itself before kill {kill}"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start().wait(timeout=600) == 0
    seen = {}
    for line in filter(None, log.read_text().splitlines()):
        try:
            step, found = json.loads(line)
        except ValueError:
            continue  # cut off by a kill, and written again
        assert found == expected[step]  # also where a step was done twice
        seen[step] = found
    assert [seen[step] for step in range(KILLED_STEPS)] == expected
