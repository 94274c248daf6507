"""Opens a finished (or running) training run for use: config, tokeniser, model and parameters. What evaluation starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from snp_jax.data.text import Tokenizer
from snp_jax.models.snp import SNP
from snp_jax.train import build, inputs
from snp_jax.train.checkpoints import DIRECTORY, find_checkpoint, load_params
from snp_jax.train.config import load_config, of_this_version
from snp_jax.train.loop import CONFIG
from snp_jax.train.state import init_params


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run's model with its parameters.

    Attributes:
        workdir: where it was trained.
        step: updates behind the parameters.
        config: the config it was trained with.
        tokenizer: its tokeniser.
        model: the network.
        params: its parameters.
        answers: answer -> class of a QA run; empty otherwise.
    """

    workdir: Path
    step: int
    config: ConfigDict
    tokenizer: Tokenizer
    model: SNP
    params: Any
    answers: dict[str, int]


def open_run(path: Path) -> TrainedRun:
    """Opens the newest checkpoint of a working directory, or one of its checkpoints.

    Raises:
        UserError: there is no checkpoint, its side files are missing, or its config is of another version.
    """
    checkpoint = find_checkpoint(path)
    workdir = checkpoint.parent.parent if checkpoint.parent.name == DIRECTORY else checkpoint.parent
    config = load_config(workdir / CONFIG)
    tokenizer = inputs.saved_tokenizer(workdir)
    with of_this_version(workdir / CONFIG):
        model, spec = build.build_model(config, tokenizer), inputs.clip_spec(config)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0), spec=spec))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    params = load_params(checkpoint, abstract)
    answers = inputs.saved_answers(workdir) if config.task == "qa" else {}
    return TrainedRun(workdir, int(checkpoint.name), config, tokenizer, model, params, answers)
