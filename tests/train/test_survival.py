"""Kills, requests to stop and numbers that are not finite: what is lost, what is said, and that the result is the same."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.errors import EXIT_STOPPED, UserError
from snp_jax.train import loop
from snp_jax.train.bad_steps import BadSteps
from snp_jax.train.checkpoints import find_checkpoint
from snp_jax.train.metrics import read_metrics
from snp_jax.train.restore import open_run
from snp_jax.train.state import TrainState
from snp_jax.train.step import keep_if


def last_step(workdir):
    file = workdir / "metrics.jsonl"
    lines = read_metrics(file) if file.exists() else []
    return lines[-1]["step"] if lines else 0


def wait_for_step(workdir, step, ended):
    while last_step(workdir) < step:
        assert ended() is None
        time.sleep(0.01)


@pytest.fixture
def start_fork(monkeypatch):
    """`start_fork(config, workdir)`: the run on one device, in a process of its own that need not import everything first."""
    jax.devices()  # this process keeps its eight
    monkeypatch.setenv("XLA_FLAGS", "")  # Python's fork server keeps what it is started with
    context, started = multiprocessing.get_context("forkserver"), []
    context.set_forkserver_preload(["snp_jax.train.loop"])

    def start(config, workdir):
        started.append(context.Process(target=loop.run, args=(config, workdir)))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


def assert_bit_identical(workdir, other):
    """Parameters and every logged loss."""
    first, second = open_run(workdir), open_run(other)
    assert first.step == second.step
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    curves = [[(line["step"], line["loss"]) for line in read_metrics(path / "metrics.jsonl")] for path in (workdir, other)]
    assert curves[0] == curves[1]


def kill_at(start_fork, config, workdir, moments):
    """Runs the command again and again: SIGKILL some seconds after a step was logged (or after the start), then to the end.

    Returns the largest number of logged steps that a kill cost.
    """
    lost = 0
    for step, delay in moments:
        process = start_fork(config, workdir)
        wait_for_step(workdir, step, lambda process=process: process.exitcode)
        time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        reached = last_step(workdir)
        kept = int(find_checkpoint(workdir).name) if reached > config.train.checkpoint_every else 0
        lost = max(lost, reached - kept)
    process = start_fork(config, workdir)
    process.join()
    assert process.exitcode == 0
    return lost


def assert_kills_change_nothing(start_fork, config, tmp_path, moments):
    """No kill costs more than the steps between two checkpoints, and the run ends like an undisturbed one."""
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    lost = kill_at(start_fork, config, killed, moments)
    print(f"{len(moments)} kills, at most {lost} steps lost, {config.train.checkpoint_every} between checkpoints")
    assert lost <= config.train.checkpoint_every
    kill_at(start_fork, config, straight, [])
    assert_bit_identical(killed, straight)


@pytest.mark.slow
def test_killed_runs_end_like_an_undisturbed_one(start_fork, quick_config, tmp_path):
    config = quick_config(steps=24, checkpoint_every=4)
    assert_kills_change_nothing(start_fork, config, tmp_path, [(6, 0.0), (13, 0.02)])


@pytest.mark.slow
def test_thirty_kills_end_like_none(start_fork, quick_config, tmp_path):
    """At random moments of 300 steps: in steps, in checkpoints (a large part of the time here), and while the run starts."""
    config = quick_config(steps=300, checkpoint_every=5)
    rng = random.Random(0)
    steps = sorted(rng.sample(range(1, 290), 30))
    moments = [(0 if i % 5 == 4 else step, rng.uniform(0, 8.0 if i % 5 == 4 else 0.1)) for i, step in enumerate(steps)]
    assert_kills_change_nothing(start_fork, config, tmp_path, moments)


@pytest.mark.slow
def test_a_request_to_stop_saves_and_has_its_own_exit_code(start_training, quick_config, tmp_path):
    config = quick_config(steps=10_000, checkpoint_every=10_000)
    process = start_training(config, tmp_path / "run")
    wait_for_step(tmp_path / "run", 2, process.poll)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate()[1]
    assert process.returncode == EXIT_STOPPED == 75
    step = int(find_checkpoint(tmp_path / "run").name)
    assert f"SIGTERM: saved step {step} of 10000" in errors and "the same command goes on from there" in errors
    assert step == last_step(tmp_path / "run") and not (tmp_path / "run" / "DONE").exists()


@pytest.mark.slow
def test_a_half_written_checkpoint_is_no_checkpoint(quick_config, tmp_path):
    """What Orbax leaves behind when it is killed while it writes has another name until it is complete."""
    assert loop.run(quick_config(steps=2), tmp_path)
    whole = tmp_path / "checkpoints" / "2"
    half = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    (half / "params").mkdir(parents=True)
    assert loop.run(quick_config(steps=4), tmp_path)
    assert not half.exists() and whole.exists() and open_run(tmp_path).step == 4


def test_an_update_that_is_not_finite_changes_nothing():
    before = TrainState(jnp.int32(3), {"w": jnp.ones(2)}, {"count": jnp.int32(3)}, {"queue": jnp.zeros(2)})
    after = TrainState(jnp.int32(3), {"w": jnp.full(2, jnp.nan)}, {"count": jnp.int32(4)}, {"queue": jnp.ones(2)})
    for finite, expected in ((True, after), (False, before)):
        jax.tree.map(np.testing.assert_array_equal, keep_if(jnp.bool_(finite), after, before), expected)


def test_skipped_updates_are_counted_and_named_and_too_many_in_a_row_end_the_run(tmp_path):
    said = []
    bad = BadSteps(tmp_path, 3, said.append)
    flags = [1, 1, 0, 1, 1, 1, 0]
    with pytest.raises(UserError) as ended:
        for step, flag in enumerate(flags, start=1):
            bad.update(step, jnp.float32(flag), [f"video_{step}", "other"])
        bad.catch_up()
    assert bad.count == 5 and len(said) == 4  # the fifth is the error
    assert "step 2: loss or gradient not finite, update skipped (2 so far); its batch: video_2, other" in said
    message = str(ended.value)
    assert "in 3 steps in a row, the last of them step 6 on video_6, other" in message and "skipped.jsonl" in message
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 4, 5, 6] and lines[-1]["videos"] == ["video_6", "other"]


@pytest.mark.slow
def test_a_run_whose_loss_is_nan_stops_with_the_names_of_its_videos(quick_config, tmp_path):
    config = quick_config(steps=6, max_bad_steps=4, checkpoint_every=1)
    config.objective.weights.gvtm_stage1 = float("nan")
    with pytest.raises(UserError, match="was not finite in 4 steps in a row, the last of them step 4 on .*clip_"):
        loop.run(config, tmp_path)
    second, third = (open_run(tmp_path / "checkpoints" / str(step)).params for step in (2, 3))
    jax.tree.map(np.testing.assert_array_equal, second, third)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(third))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["skipped"] for line in lines] == [1.0] * len(lines) and lines[-1]["skipped_steps"] == len(lines)
