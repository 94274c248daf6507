"""The training loop, in execution order. Tasks differ by config alone."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from snp_jax.data import pipeline
from snp_jax.data.failures import BrokenVideos
from snp_jax.errors import UserError
from snp_jax.train import build, inputs, sharding
from snp_jax.train.checkpoints import Checkpoints
from snp_jax.train.config import load_config, save_config
from snp_jax.train.metrics import MetricWriter, Progress
from snp_jax.train.optim import make_optimizer
from snp_jax.train.state import TrainState, abstract_state, create_state, init_params, with_params
from snp_jax.train.step import make_train_step
from snp_jax.train.warm_start import warm_start

CONFIG = "config.json"
DONE = "DONE"
"""Written into the working directory when the last step is saved; holds that step."""
TASK_PARAMETERS = ("answer/",)
"""Prefixes of parameter paths that mean something else in each task, and so never come from another run."""
RESUMABLE = ("train", "reading", "evaluation", "mesh", "dataset")
"""Config sections that may differ when a run is resumed."""


class StopSignal:
    """Remembers SIGINT or SIGTERM until the loop reaches a point where it can save. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def restore(self) -> None:
        """Puts the previous handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def run(config: ConfigDict, workdir: Path) -> bool:
    """Trains (or goes on training) in `workdir`. Returns False when a signal ended it before the last step.

    Raises:
        UserError: the config, the data or an existing checkpoint do not fit.
    """
    # ---------------------------------------------------------------- what is asked for
    build.check_task(config)
    build.check_choices(config)
    mesh = sharding.make_mesh(sharding.MeshOptions(**config.mesh.to_dict()))
    sharding.check_batch_size(config.batch_size, mesh)
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir, config.train.keep_checkpoints)
    resuming = checkpoints.latest() is not None
    if resuming:
        _check_same_run(config, workdir)

    # ---------------------------------------------------------------- data
    videos = inputs.training_videos(config)
    if not resuming:
        inputs.forget(workdir)
    tokenizer = inputs.adopt_tokenizer(config, workdir)
    text = inputs.text_of_task(config, tokenizer, workdir, videos)
    processes = jax.process_count()
    batches = pipeline.train_batches(
        videos, spec=inputs.clip_spec(config), text=text, batch_size=config.batch_size // processes,
        seed=config.seed, reading=inputs.reading(config), shard=(jax.process_index(), processes),
    )  # fmt: skip
    epoch = pipeline.steps_per_epoch(videos, config.batch_size // processes, processes)
    here = {name: -(-size // processes) for name, size in videos.sizes.items()}
    broken = BrokenVideos(str(config.dataset.path), here, max_share=config.dataset.max_broken_share)

    # ---------------------------------------------------------------- model, optimiser, state
    model = build.build_model(config, tokenizer)
    task = build.build_task(config, tokenizer)
    options = build.build_optim(config)
    tx = make_optimizer(options)
    save_config(config, workdir / CONFIG)
    state = _first_state(config, model, task, tx, mesh, checkpoints, batches)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(model, task, tx, options, build.build_augment(config), mesh, shardings, config.seed)

    # ---------------------------------------------------------------- the loop: save, draw, step
    first, last = int(state.step), config.train.steps
    writer = MetricWriter(workdir, first)
    progress = Progress(f"{config.task} ({workdir.name})", first, last, config.batch_size)
    stop = StopSignal()
    metrics = {}
    try:
        for number in range(first, last):
            if stop.received or (number > first and number % config.train.checkpoint_every == 0):
                checkpoints.save(state, batches)
            if stop.received:
                break
            batch = next(batches)
            broken.update(batch)
            arrays = {name: value for name, value in batch.items() if name not in inputs.HOST_KEYS}
            state, metrics = step(state, sharding.put_batch(arrays, mesh))
            progress.advance()
            if (number + 1) % config.train.log_every == 0 or number + 1 == last:
                _log(number + 1, metrics, progress, writer, broken)
            if (number + 1) % epoch == 0 and broken.count:
                progress.say(f"epoch {(number + 1) // epoch}: {broken.summary()}")
        else:
            checkpoints.save(state, batches)
            (workdir / DONE).write_text(f"{last}\n")
    finally:
        stop.restore()
        progress.close()
        writer.close()
        checkpoints.close()
        batches.close()
    finished = int(state.step) >= last  # a signal during the last step stops nothing
    if not finished:
        name = signal.Signals(stop.received).name
        print(
            f"{name}: saved step {int(state.step)} of {last} in {workdir}; the same command goes on from there.",
            file=sys.stderr,
        )
    return finished


def _check_same_run(config: ConfigDict, workdir: Path) -> None:
    """A working directory belongs to one config; what shapes the result may not change between resumes."""
    before, now = load_config(workdir / CONFIG).to_dict(), config.to_dict()
    for section in sorted((before.keys() | now.keys()) - set(RESUMABLE)):
        if json.dumps(before.get(section), sort_keys=True) != json.dumps(now.get(section), sort_keys=True):
            raise UserError(
                f"{workdir} holds a run with another config.{section} ({before.get(section)} there, {now.get(section)} "
                "now): use another --workdir, or the old values"
            )


def _first_state(config, model, task, tx, mesh: Mesh, checkpoints: Checkpoints, batches) -> TrainState:
    """Restored from the newest checkpoint, or fresh, or fresh with parameters of other checkpoints."""

    def init():
        return init_params(model, jax.random.key(config.seed), spec=inputs.clip_spec(config))

    def init_memory(params):
        return task.init_memory(params, jax.random.fold_in(jax.random.key(config.seed), 1))

    if checkpoints.latest() is not None:
        state = checkpoints.restore(abstract_state(init, tx, mesh, init_memory), batches)
        print(f"resumed from step {int(state.step)}")
        return state
    state = create_state(init, tx, mesh, init_memory)
    if config.train.init_from:
        given = config.train.init_from
        paths = [Path(path) for path in ([given] if isinstance(given, str) else given)]
        params, origins = warm_start(paths, state.params, fresh=TASK_PARAMETERS)
        print(origins)
        state = with_params(state, params, init_memory)
    return state


def _log(number: int, metrics, progress: Progress, writer: MetricWriter, broken: BrokenVideos) -> None:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    rate = progress.rate(number)
    values |= {"examples_per_second": rate, "broken_videos": float(broken.count)}
    writer.write(number, values, {"broken": broken.by_reason(), "broken_names": broken.names()} if broken.count else None)
    shown = {name: value for name, value in values.items() if name == "loss" or "accuracy" in name or "recall" in name}
    progress.show(shown, rate)
