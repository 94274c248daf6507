"""The workers of the input pipeline: what happens to the stream when one dies, blocks, or loses its parent."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from streams import IN_PROCESS, SPEC, DrawnCaption, assert_equal, stream, take

from snp_jax.data import pipeline
from snp_jax.data import stream as stream_module
from snp_jax.data.pipeline import Reading, open_source, train_batches
from snp_jax.errors import UserError


@pytest.fixture(scope="module")
def train(prepared_dataset):
    return open_source(prepared_dataset, "train")


class DiesAfterAWhile(DrawnCaption):
    """Ends the worker process the hard way, as a segmentation fault or an out-of-memory kill would."""

    code = 3

    def __call__(self, annotation, rng):
        if annotation.video_id == "clip_05":
            os._exit(self.code)
        return super().__call__(annotation, rng)


class LeavesSilently(DiesAfterAWhile):
    """Ends the worker process as if all were well, which Grain alone waits for forever."""

    code = 0


ONE_WORKER = Reading(num_workers=1, num_threads=1, buffer=2)


@pytest.mark.parametrize(
    "text, message",
    [
        (DiesAfterAWhile(), "reading the data failed: a worker process ended with exit code 3.* .2 in a row.; run the same"),
        (LeavesSilently(), "a worker process ended with exit code 0 and no batch came for 4 s after that .2 in a row."),
    ],
)
def test_workers_that_die_again_and_again_end_the_run(train, text, message, monkeypatch, capfd):
    """Not in the decoder: there is no video to blame."""
    monkeypatch.setattr(stream_module, "_MAX_DEATHS", 2)
    monkeypatch.setattr(stream_module, "_GONE_S", 4.0)
    batches = stream(train, ONE_WORKER, text=text)
    started = time.monotonic()
    with pytest.raises(UserError, match=message):
        for _ in range(8):
            next(batches)
    batches.close()
    assert time.monotonic() - started < 500
    assert "starting new workers" in capfd.readouterr().err


def test_a_killed_worker_is_replaced_and_the_stream_is_the_same(train):
    expected = take(stream(train), 8)
    batches = stream(train, dataclasses.replace(ONE_WORKER, num_workers=2))
    seen = []
    for step in range(8):
        seen.append(next(batches))
        if step == 2:
            victim = next(p for p in multiprocessing.active_children() if p.name.startswith("grain-process-prefetch"))
            os.kill(victim.pid, signal.SIGKILL)
    batches.close()
    assert_equal(seen, expected)


_DECODE_CLIP = pipeline.decode.decode_clip


class Spoils(DrawnCaption):
    """Makes the decoder of the worker end or block its process at one video."""

    def __init__(self, how):
        object.__setattr__(self, "how", how)

    def __call__(self, annotation, rng):
        def spoiled(*args, **kwargs):
            if self.how == "crashes":
                os.kill(os.getpid(), signal.SIGSEGV)  # another thread may take it: stay here until it has
            time.sleep(1000)

        in_worker = multiprocessing.parent_process() is not None
        pipeline.decode.decode_clip = spoiled if in_worker and annotation.video_id == "clip_05" else _DECODE_CLIP
        return super().__call__(annotation, rng)


@pytest.mark.parametrize("how, reason", [("crashes", "ended with signal 11"), ("blocks", "was blocked by a decoder")])
def test_a_video_that_ends_or_blocks_the_decoder_is_masked(train, how, reason):
    spec = dataclasses.replace(SPEC, decode_budget_s=30.0 if how == "crashes" else 3.0)  # how long a block is waited for
    expected = take(stream(train), 4)
    batches = train_batches(train, spec=spec, text=Spoils(how), batch_size=4, seed=0, reading=ONE_WORKER)
    started = time.monotonic()
    seen = take(batches, 4)
    assert time.monotonic() - started < 500
    for one, other in zip(seen, expected, strict=True):
        assert one["video_id"].tolist() == other["video_id"].tolist()
        for row, video_id in enumerate(one["video_id"]):
            if video_id == "clip_05":
                assert not one["valid"][row]
                assert one["failure"][row] == f"crash: a worker process {reason} while it decoded this video"
            else:
                assert one["failure"][row] == other["failure"][row]
                np.testing.assert_array_equal(one["video"][row], other["video"][row])


def test_without_workers_a_blocked_decoder_ends_the_run(train, monkeypatch):
    """Its thread cannot be stopped."""
    monkeypatch.setattr(pipeline.decode, "decode_clip", lambda *args, **kwargs: time.sleep(20))
    batches = stream(train, dataclasses.replace(IN_PROCESS, stall_s=1.0))
    with pytest.raises(UserError, match="reading the data failed: no batch came for 1 s .1 in a row.; run the same command"):
        next(batches)
    batches.close()


def test_the_notes_of_the_workers_are_removed(train):
    before = set(Path(tempfile.gettempdir()).glob("snp_jax_watch_*"))
    batches = stream(train)
    (notes,) = set(Path(tempfile.gettempdir()).glob("snp_jax_watch_*")) - before
    take(batches, 1)
    assert not notes.exists()


_KILLED = """
import multiprocessing, os, signal, sys
from streams import DrawnCaption, Reading, stream
from snp_jax.data.pipeline import open_source
batches = stream(open_source(sys.argv[1], "train"), Reading(num_workers=1, num_threads=1, buffer=2))
next(batches)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_when_the_run_is_killed(prepared_dataset):
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    output = subprocess.run(
        [sys.executable, "-c", _KILLED, str(prepared_dataset)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    ).stdout
    (worker,) = map(int, output.split())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()
