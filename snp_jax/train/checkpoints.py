"""Checkpoints: parameters, optimiser state, step, task memory and data iterator, through Orbax. The one file that imports it.

Layout below a run's working directory: `checkpoints/<step>/{params,optimizer,data}`, and `memory` where the task has one
(MoCo's queues and key encoders). A checkpoint counts once its directory has its final name (Orbax renames it as the last act),
so an interrupted save is never restored.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from snp_jax.errors import UserError
from snp_jax.train.optim import parameter_path
from snp_jax.train.state import TrainState

DIRECTORY = "checkpoints"


def tree_bytes(tree: Any) -> int:
    """Size of a tree's arrays in bytes."""
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Checkpoints:
    """Saves and restores the state of one run.

    Args:
        workdir: the run's working directory.
        keep: how many of the latest checkpoints stay on disk.
    """

    def __init__(self, workdir: Path, keep: int):
        self.directory = (workdir / DIRECTORY).absolute()
        self._orbax = ocp.training.Checkpointer(
            self.directory,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        newest = self._orbax.latest
        return None if newest is None else newest.step

    def save(self, state: TrainState, data: Any) -> int:
        """Writes a checkpoint of the state and the data iterator; returns its step. Saving a step twice does nothing.

        Raises:
            UserError: no space left. Earlier checkpoints are untouched.
        """
        step = int(state.step)
        if step == self.latest():
            return step
        needed, free = tree_bytes(state), shutil.disk_usage(self.directory).free
        if free < needed:
            raise self._no_space(step, f"{needed >> 20} MiB needed, {free >> 20} MiB free")
        try:
            self._orbax.save_checkpointables(step, {**_parts(state), "data": data}, force=True)
        except Exception as error:
            if _is_no_space(error):
                raise self._no_space(step, "the disk filled up while writing") from error
            raise
        return step

    def restore(self, abstract: TrainState, data: Any) -> TrainState:
        """Loads the newest checkpoint onto the shardings of `abstract`, and sets the data iterator to where it was.

        Raises:
            UserError: the checkpoint is of another model.
        """
        step = self.latest()
        check_same_shapes(self.directory / str(step), abstract.params)
        loaded = self._orbax.load_checkpointables(step, {**_parts(abstract), "data": data})
        return TrainState(params=loaded["params"], memory=loaded.get("memory"), **loaded["optimizer"])

    def close(self) -> None:
        """Waits for writes and releases resources."""
        self._orbax.close()

    def _no_space(self, step: int, detail: str) -> UserError:
        last = self.latest()
        kept = f"the checkpoint of step {last} is kept" if last is not None else "no earlier checkpoint exists"
        return UserError(
            f"no space left for the checkpoint of step {step} in {self.directory} ({detail}); {kept}: "
            "free some space and run the same command again"
        )


def _parts(state: TrainState) -> dict[str, Any]:
    """What is stored of a state, by the name of its folder."""
    parts = {"params": state.params, "optimizer": {"step": state.step, "opt_state": state.opt_state}}
    return parts if state.memory is None else {**parts, "memory": state.memory}


def _is_no_space(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def find_checkpoint(path: Path) -> Path:
    """The newest step directory of a run's working directory, of its `checkpoints`, or the step directory itself.

    Raises:
        UserError: there is no complete checkpoint at `path`.
    """
    path = path.absolute()
    if (path / "params").is_dir():
        return path
    for root in (path / DIRECTORY, path):
        steps = [entry for entry in root.glob("*") if entry.name.isdigit() and (entry / "params").is_dir()]
        if steps:
            return max(steps, key=lambda entry: int(entry.name))
    raise UserError(f"no checkpoint found at {path}: name a run's working directory or one of its checkpoints")


def saved_shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by parameter path of a checkpoint's parameters, read without loading them."""
    metadata = ocp.metadata(checkpoint, checkpointable_name="params").metadata
    leaves, _ = jax.tree_util.tree_flatten_with_path(metadata, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    return {parameter_path(path): tuple(leaf.shape) for path, leaf in leaves}


def check_same_shapes(checkpoint: Path, params: Any) -> None:
    """Raises `UserError` unless the checkpoint's parameters have the model's names and shapes."""
    saved = saved_shapes(checkpoint)
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    wanted = {parameter_path(path): tuple(leaf.shape) for path, leaf in leaves}
    _explain_difference(checkpoint, saved, wanted)


def _explain_difference(checkpoint: Path, saved: dict, wanted: dict) -> None:
    for name in sorted(saved.keys() & wanted.keys()):
        if saved[name] != wanted[name]:
            raise UserError(
                f"the checkpoint {checkpoint} is of another model: parameter {name} is {saved[name]} there and "
                f"{wanted[name]} in the config; use the config it was trained with, or another working directory"
            )
    for names, where in (
        (wanted.keys() - saved.keys(), "missing from"),
        (saved.keys() - wanted.keys(), "only in"),
    ):
        if names:
            raise UserError(
                f"the checkpoint {checkpoint} is of another model: {len(names)} parameters are {where} the checkpoint, "
                f"for example {min(names)}; use the config it was trained with"
            )


def load_params(path: Path, abstract_params: Any) -> Any:
    """Loads a checkpoint's parameters onto the shardings of `abstract_params`; names and shapes must be equal.

    Raises:
        UserError: no checkpoint there, or it is of another model.
    """
    checkpoint = find_checkpoint(path)
    check_same_shapes(checkpoint, abstract_params)
    return ocp.load_checkpointables(checkpoint, {"params": abstract_params})["params"]


def load_subset(checkpoint: Path, abstract_params: Any) -> Any:
    """Loads some of a checkpoint's parameters onto the shardings of `abstract_params`, a tree of the wanted ones alone."""
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        return ocp.load_checkpointables(checkpoint, {"params": abstract_params})["params"]


def load_arrays(checkpoint: Path) -> Any:
    """All parameters of a checkpoint as NumPy arrays, whatever model they are of."""
    shapes = ocp.metadata(checkpoint, checkpointable_name="params").metadata
    device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        shapes,
        is_leaf=lambda x: hasattr(x, "shape"),
    )
    return jax.tree.map(np.asarray, ocp.load_checkpointables(checkpoint, {"params": abstract})["params"])


def save_params(checkpoint: Path, params: Any) -> None:
    """Writes parameters alone as a checkpoint; `find_checkpoint` and `load_params` take it like a run's."""
    ocp.save_checkpointables(checkpoint.absolute(), {"params": params})
