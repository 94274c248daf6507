"""Checkpoints of a toy state: full disks, other models."""

from __future__ import annotations

import collections
import errno
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.data import pipeline
from snp_jax.errors import UserError
from snp_jax.train.checkpoints import Checkpoints, find_checkpoint, load_params
from snp_jax.train.state import TrainState


@pytest.fixture
def batches(prepared_dataset):
    source = pipeline.open_source(str(prepared_dataset), "val")
    spec = pipeline.ClipSpec(num_clips=1, image_size=(32, 32))
    stream = pipeline.eval_batches(source, spec=spec, batch_size=2, reading=pipeline.Reading())
    yield stream
    stream.close()


def make_state(step, **params):
    leaves = {name: {"kernel": jnp.full(shape, float(step))} for name, shape in params.items()}
    return TrainState(jnp.int32(step), leaves, {"count": jnp.int32(step)})


@pytest.fixture
def saved(tmp_path, batches):
    """A working directory with a checkpoint of step 1, and its open `Checkpoints`."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    checkpoints.save(make_state(1, a=(2, 3), b=(4,)), batches)
    yield tmp_path, checkpoints
    checkpoints.close()


def full_disk(monkeypatch, how):
    if how == "known before":
        usage = collections.namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 0))
        return

    def fail(*arguments, **options):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("RESOURCE_EXHAUSTED: writing failed") from error

    from orbax.checkpoint import v1 as ocp

    monkeypatch.setattr(ocp.training.Checkpointer, "save_checkpointables", fail)


@pytest.mark.parametrize("how", ["known before", "found while writing"])
def test_a_full_disk_keeps_the_earlier_checkpoint(how, saved, batches, monkeypatch):
    _, checkpoints = saved
    with monkeypatch.context() as patch:
        full_disk(patch, how)
        with pytest.raises(UserError, match="no space left for the checkpoint of step 2.* step 1 is kept"):
            checkpoints.save(make_state(2, a=(2, 3), b=(4,)), batches)
    state = checkpoints.restore(make_state(0, a=(2, 3), b=(4,)), batches)
    assert int(state.step) == 1 and int(state.opt_state["count"]) == 1
    np.testing.assert_array_equal(state.params["a"]["kernel"], np.ones((2, 3)))
    checkpoints.save(make_state(2, a=(2, 3), b=(4,)), batches)
    assert checkpoints.latest() == 2


def test_another_model_is_refused_by_name(saved, batches):
    workdir, checkpoints = saved
    with pytest.raises(UserError, match=r"parameter a/kernel is \(2, 3\) there and \(2, 5\) in the config"):
        checkpoints.restore(make_state(0, a=(2, 5), b=(4,)), batches)
    with pytest.raises(UserError, match=r"1 parameters are missing from the checkpoint, for example c/kernel"):
        load_params(workdir, make_state(0, a=(2, 3), b=(4,), c=(1,)).params)
    with pytest.raises(UserError, match=r"1 parameters are only in the checkpoint, for example b/kernel"):
        load_params(workdir, make_state(0, a=(2, 3)).params)


def test_find_checkpoint(saved, batches, tmp_path):
    workdir, checkpoints = saved
    checkpoints.save(make_state(10, a=(2, 3), b=(4,)), batches)
    newest = workdir / "checkpoints" / "10"
    for path in (workdir, workdir / "checkpoints", newest):
        assert find_checkpoint(path) == newest
    (workdir / "checkpoints" / "11.orbax-checkpoint-tmp").mkdir()
    assert find_checkpoint(workdir) == newest
    with pytest.raises(UserError, match="no checkpoint found at .*nothing: name a run's working directory"):
        find_checkpoint(tmp_path / "nothing")
    loaded = load_params(newest, make_state(0, a=(2, 3), b=(4,)).params)
    np.testing.assert_array_equal(loaded["b"]["kernel"], np.full(4, 10.0))
