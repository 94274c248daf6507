"""The training loop, in execution order. Tasks differ by config alone."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import jax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

from snp_jax.data import pipeline
from snp_jax.data.failures import BrokenVideos, count_reasons
from snp_jax.errors import UserError
from snp_jax.train import build, inputs, processes, sharding
from snp_jax.train.bad_steps import BadSteps
from snp_jax.train.checkpoints import Checkpoints
from snp_jax.train.config import load_config, save_config
from snp_jax.train.metrics import MetricWriter, Progress
from snp_jax.train.optim import check_freeze, make_optimizer
from snp_jax.train.profiling import Profiler, ProfileSteps
from snp_jax.train.state import TrainState, abstract_state, create_params, init_params, start_state
from snp_jax.train.step import make_train_step
from snp_jax.train.stopping import StopSignal
from snp_jax.train.warm_start import warm_start

CONFIG = "config.json"
DONE = "DONE"
"""Written into the working directory when the last step is saved; holds that step."""
TASK_PARAMETERS = ("answer/", "clip_tags/")
"""Prefixes of parameter paths that mean something else in each task, and so never come from another run."""
RESUMABLE = ("train", "reading", "evaluation", "mesh", "dataset")
"""Config sections that may differ when a run is resumed."""


def run(config: ConfigDict, workdir: Path, profile: ProfileSteps | None = None) -> bool:
    """Trains (or goes on training) in `workdir`. Returns False when a signal ended it before the last step.

    With several processes (`processes.join`), each of them calls this.

    Raises:
        UserError: the config, the data or an existing checkpoint do not fit.
    """
    # ---------------------------------------------------------------- what is asked for
    build.check_task(config)
    build.check_choices(config)
    inputs.check_workdir(workdir)
    mesh = build.build_mesh(config)
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir, config.train.keep_checkpoints)
    resuming = checkpoints.latest() is not None
    if resuming:
        _check_same_run(config, workdir)

    # ---------------------------------------------------------------- data
    videos = inputs.training_videos(config)
    with processes.first_before_others("side files"):
        if not resuming and processes.is_first():
            inputs.forget(workdir)
        tokenizer = inputs.adopt_tokenizer(config, workdir)
        text = inputs.text_of_task(config, tokenizer, workdir, videos)
    batches = pipeline.train_batches(
        videos, spec=inputs.clip_spec(config), text=text, batch_size=config.batch_size, seed=config.seed,
        reading=inputs.reading(config), rows=sharding.process_rows(config.batch_size, mesh),
    )  # fmt: skip
    # A process sees other videos every epoch, and in the end all of them.
    epoch = pipeline.steps_per_epoch(videos, config.batch_size)
    broken = BrokenVideos(str(config.dataset.path), videos.sizes, max_share=config.dataset.max_broken_share)

    # ---------------------------------------------------------------- model, optimiser, state
    model = build.build_model(config, tokenizer)
    task = build.build_task(config, tokenizer)
    options = build.build_optim(config)
    tx = make_optimizer(options)
    if processes.is_first():
        save_config(config, workdir / CONFIG)
    try:
        state = _first_state(config, model, task, tx, mesh, checkpoints, batches)
        check_freeze(options.freeze, state.params)
    except BaseException:
        batches.close()  # its workers have started
        raise
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(
        model, task, tx, options, build.build_augment(config), mesh, shardings, config.seed,
        reduce=config.mesh.reduce, accumulate=config.optim.accumulate, kernels=config.mesh.kernels,
    )  # fmt: skip

    # ---------------------------------------------------------------- the loop: save, draw, step
    first, last = int(state.step), config.train.steps
    writer = MetricWriter(workdir, first, enabled=processes.is_first())
    progress = Progress(f"{config.task} ({workdir.name})", first, last, config.batch_size, shown=processes.is_first())
    bad = BadSteps(workdir, config.train.max_bad_steps, progress.say)
    profiler = Profiler(workdir, profile if processes.is_first() else None)
    stop, stopped = StopSignal(), False
    try:
        for number in range(first, last):
            stopped = stop.requested(number)
            if stopped or (number > first and number % config.train.checkpoint_every == 0):
                checkpoints.save(state, batches)
            if stopped:
                break
            batch = next(batches)
            broken.update(batch)
            arrays = {name: value for name, value in batch.items() if name not in inputs.HOST_KEYS}
            profiler.before(number, state)
            state, metrics = step(state, sharding.put_batch(inputs.trim_texts(arrays, config, mesh), mesh))
            progress.advance()
            bad.update(number + 1, metrics["skipped"], batch["video_id"][batch["valid"]])
            if (number + 1) % config.train.log_every == 0 or number + 1 == last:
                bad.catch_up()
                _log(number + 1, metrics | {"skipped_steps": bad.count}, progress, writer, broken)
            if (number + 1) % epoch == 0 and broken.count:
                progress.say(f"epoch {(number + 1) // epoch}: {broken.summary()}")
        else:
            checkpoints.save(state, batches)
            if processes.is_first():
                (workdir / DONE).write_text(f"{last}\n")
    finally:
        profiler.close()
        stop.restore()
        progress.close()
        writer.close()
        checkpoints.close()
        batches.close()
    if stopped and processes.is_first():
        print(
            f"{stop.name}: saved step {int(state.step)} of {last} in {workdir}; the same command goes on from there.",
            file=sys.stderr,
        )
    return not stopped  # a signal during the last step stops nothing


def _check_same_run(config: ConfigDict, workdir: Path) -> None:
    """A working directory belongs to one config; what shapes the result may not change between resumes."""
    before, now = (_flat(each) for each in (load_config(workdir / CONFIG), config))
    for key in sorted(before.keys() | now.keys()):
        if key.split(".")[0] not in RESUMABLE and before.get(key) != now.get(key):
            there, here = before.get(key, "not in its config.json"), now.get(key, "no such key")
            raise UserError(
                f"{workdir} holds a run with another config.{key} ({there} there, {here} now): use another --workdir, "
                "or the old value; a key that only one side has came or went with another version of snp-jax"
            )


def _flat(config: ConfigDict) -> dict[str, str]:
    """{"model.bert.width": "768", ...}: values as JSON."""
    return {key: json.dumps(value) for key, value in flatten_dict(config.to_dict(), sep=".").items()}


def _first_state(config, model, task, tx, mesh: Mesh, checkpoints: Checkpoints, batches) -> TrainState:
    """Restored from the newest checkpoint, or fresh, or fresh with parameters of other checkpoints."""

    def init():
        return init_params(model, jax.random.key(config.seed), spec=inputs.clip_spec(config))

    def init_memory(params):
        return task.init_memory(params, jax.random.fold_in(jax.random.key(config.seed), 1))

    abstract = abstract_state(init, tx, mesh, init_memory)
    if checkpoints.latest() is not None:
        state = checkpoints.restore(abstract, batches)
        batches.start()
        processes.say(f"resumed from step {int(state.step)}")
        return state
    batches.start()  # while the model compiles
    make = functools.partial(create_params, init, abstract.params)
    if config.train.init_from:
        given = config.train.init_from
        paths = [Path(path) for path in ([given] if isinstance(given, str) else given)]
        params, origins = warm_start(paths, abstract.params, make, fresh=TASK_PARAMETERS)
        processes.say(origins)
    else:
        params = make()
    return start_state(params, abstract, tx, init_memory)


def _log(number: int, metrics, progress: Progress, writer: MetricWriter, broken: BrokenVideos) -> None:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    rate = progress.rate(number)
    names = {name: reason for part in processes.gather(broken.names()) for name, reason in part.items()}
    values |= {"examples_per_second": rate, "broken_videos": float(len(names))}
    writer.write(number, values, {"broken": count_reasons(names), "broken_names": names} if names else None)
    shown = {name: value for name, value in values.items() if name == "loss" or "accuracy" in name or "recall" in name}
    progress.show(shown, rate)
