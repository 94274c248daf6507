"""Notes of what a worker decodes survive it, and a video that was named twice is refused."""

import multiprocessing
import os
import signal
import time

import pytest

from snp_jax.data.container import VideoError
from snp_jax.data.watch import BLOCKED_EXIT, WatchKeeper


def crash(watch, before, video_id):
    """A worker that decodes some videos and ends at another."""
    for name in before:
        with watch.decoding(name, 60.0):
            pass
    with watch.decoding(video_id, 60.0):
        os.kill(os.getpid(), signal.SIGKILL)


def block(watch, video_id):
    """A worker whose decoder does not return."""
    with watch.decoding("another thread's", 60.0), watch.decoding(video_id, 0.1):
        time.sleep(600)


def refuse(watch, video_id, answers):
    """A worker that meets a refused video."""
    try:
        with watch.decoding(video_id, 60.0):
            answers.put("decoded")
    except VideoError as error:
        answers.put(str(error))


def run(target, *arguments):
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.pid, process.exitcode


@pytest.fixture
def keeper():
    made = WatchKeeper()
    yield made
    made.close()
    assert not os.path.exists(made.watch.directory)


def test_a_video_that_ends_workers_twice_is_refused(keeper):
    pid, code = run(crash, keeper.watch, ["fine", "also fine"], "bad one ü")
    assert code == -signal.SIGKILL
    assert keeper.accuse([pid], "it ended") == []  # once may be chance: the kernel, short of memory
    pid, _ = run(crash, keeper.watch, ["fine"], "bad one ü")
    assert keeper.accuse([pid], "it ended") == ["bad one ü"]
    answers = multiprocessing.get_context("spawn").Queue()
    run(refuse, keeper.watch, "bad one ü", answers)
    assert answers.get(timeout=60) == "crash: it ended"


def test_a_video_that_blocks_its_worker_is_refused_at_once(keeper):
    pid, code = run(block, keeper.watch, "stuck")
    assert code == BLOCKED_EXIT
    assert keeper.accuse([pid], "it blocked") == ["stuck"]  # and not what another thread was at


def test_only_what_was_begun_long_ago_is_suspected(keeper):
    pid, _ = run(crash, keeper.watch, [], "just begun")
    assert keeper.accuse([pid] * 2, "slow", blocked_before=time.time() - 3600) == []
    assert keeper.accuse([pid] * 2, "slow", blocked_before=time.time() + 1) == ["just begun"]


def test_a_worker_that_left_no_notes(keeper):
    assert keeper.accuse([1 << 30], "it ended") == []


def test_the_main_process_leaves_no_notes(keeper):
    with keeper.watch.decoding("a", 0.0):
        assert os.listdir(keeper.watch.directory) == []
