"""The steps that a config runs, as programs without data: abstract state and batch, on a mesh of described devices."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from snp_jax.aot.stand_ins import with_text_files
from snp_jax.data.pipeline import ClipSpec
from snp_jax.errors import UserError
from snp_jax.eval.scoring import Scorer
from snp_jax.models.backend import lower_for
from snp_jax.train import build, inputs, sharding
from snp_jax.train.compat import Compat
from snp_jax.train.optim import make_optimizer
from snp_jax.train.state import abstract_state, init_params
from snp_jax.train.step import make_train_step

CHOICE_OPTIONS = 5
"""Options a question of MSRVTT multiple choice."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced step.

    Attributes:
        name: "train", or the pass of evaluation: "videos" or "pairs".
        call: the jitted step, of `state` and `batch`.
        traced: what its `.trace` returned.
        state: abstract parameters, with shardings (train: the whole state).
        batch: abstract batch.
        examples: pairs a step.
        mesh: where it runs.
    """

    name: str
    call: Callable[[Any, dict[str, Any]], Any]
    traced: Any
    state: Any
    batch: dict[str, jax.ShapeDtypeStruct]
    examples: int
    mesh: Mesh


def train_program(config: ConfigDict, mesh: Mesh, platform: str) -> Program:
    """The training step of a config, exactly as `train.loop` builds it.

    Args:
        config: any experiment; its text files may be absent (`stand_ins`).
        mesh: of real or described devices.
        platform: "tpu", "gpu" or "cpu", for which formulations are chosen (`models.backend`).
    """
    model, task = _model_and_task(config)
    options = build.build_optim(config)
    tx = make_optimizer(options)
    with lower_for(platform):
        state = abstract_state(
            lambda: init_params(model, jax.random.key(config.seed), spec=inputs.clip_spec(config)),
            tx,
            mesh,
            lambda params: task.init_memory(params, jax.random.key(config.seed)),
        )
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        step = make_train_step(
            model, task, tx, options, build.build_augment(config), mesh, shardings, config.seed,
            reduce=config.mesh.reduce, accumulate=config.optim.accumulate, kernels=config.mesh.kernels,
        )  # fmt: skip
        batch = abstract_batch(config, mesh)
        return Program("train", step, step.trace(state, batch), state, batch, config.batch_size, mesh)


def evaluation_program(config: ConfigDict, mesh: Mesh, platform: str, name: str) -> Program:
    """A pass of evaluation (`eval.scoring.Scorer`): "videos" encodes `evaluation.batch_size` of them, "pairs" scores
    `evaluation.chunk` (text, video) pairs. The arguments are those of `train_program`."""
    if config.task == "tagging":
        raise UserError(f"--step {name}: the task tagging trains a visual encoder and has no evaluation")
    model, _ = _model_and_task(config)
    settings, spec = config.evaluation, inputs.clip_spec(config)
    scorer = Scorer(
        model, None, num_clips=spec.num_clips, batch_size=settings.batch_size, chunk=settings.chunk,
        changes=build.build_augment(config),
    )  # fmt: skip
    with lower_for(platform):
        shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(config.seed), spec=spec))
        params = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            shapes,
            sharding.state_shardings(shapes, mesh),
        )
        arrays = _evaluated(config, mesh, name)
        head = "answer" if config.task == "qa" else "match"

        def arguments(batch: dict[str, Any]) -> tuple[Any, ...]:
            return (batch,) if name == "videos" else (*(batch[key] for key in arrays), head)

        def call(params: Any, batch: dict[str, Any]) -> Any:
            return scorer.passes[name](params, *arguments(batch))

        traced = scorer.passes[name].trace(params, *arguments(arrays))
    return Program(name, call, traced, params, arrays, next(iter(arrays.values())).shape[0], mesh)


def _model_and_task(config: ConfigDict) -> tuple[Any, Any]:
    build.check_task(config)
    build.check_choices(config)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = with_text_files(config, Path(folder))
        return build.build_model(config, tokenizer), build.build_task(config, tokenizer)


def _evaluated(config: ConfigDict, mesh: Mesh, name: str) -> dict[str, jax.ShapeDtypeStruct]:
    """What a pass of evaluation reads beside the parameters, in its order."""
    spec, length = inputs.clip_spec(config), config.text.max_len
    if name == "videos":
        shapes = _frames(spec, config.evaluation.batch_size)
    else:
        rows, clips = config.evaluation.chunk, spec.num_clips
        shapes = {
            "text_ids": ((rows, length), jnp.int32),
            "text_mask": ((rows, length), jnp.bool_),
            "tokens": ((rows, clips, config.model.bert.width), jnp.float32),
            "clip_mask": ((rows, clips), jnp.bool_),
        }
    return _placed(shapes, mesh)


def _frames(spec: ClipSpec, rows: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The frames of a batch; with buckets, of the first of them."""
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "video": ((rows, spec.num_frames, *spec.sizes[0], 3), jnp.uint8),
        "video_mask": ((rows, spec.num_frames), jnp.bool_),
    }
    return shapes | {"frame_size": ((rows, 2), jnp.int32)} if spec.fit == "pad" else shapes


def _placed(shapes: dict[str, tuple[tuple[int, ...], Any]], mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    where = sharding.batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=where) for name, (shape, dtype) in shapes.items()}


def abstract_batch(config: ConfigDict, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays of a training batch that reach the devices (`docs/architecture.md`), as `sharding.put_batch` places them."""
    pairs, spec = config.batch_size, inputs.clip_spec(config)
    text = (pairs, CHOICE_OPTIONS, config.text.max_len) if config.task == "choice" else (pairs, config.text.max_len)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        **_frames(spec, pairs),
        "text_ids": (text, jnp.int32),
        "text_mask": (text, jnp.bool_),
        "valid": ((pairs,), jnp.bool_),
    }
    if config.task in ("qa", "choice"):
        shapes["label"] = ((pairs,), jnp.int32)
    if config.task == "pretrain" and Compat(**config.compat.to_dict()).separate_windows:
        shapes["text_ids_to_mask"] = (text, jnp.int32)
    return _placed(shapes, mesh)
