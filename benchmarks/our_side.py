"""Our side of `step.py`: functions for a process in which there is no PyTorch."""

from __future__ import annotations

import functools
from typing import Any

import jax
from problem import Ours, infer_batch, make_params, network_config, train_batches
from sides import Functions
from timing import timed

from snp_jax.models.snp import SNP


def training(tiny: bool, side: int) -> Functions:
    """For each of `train_batches`: NAME is a step on it, "first NAME" one from the first weights; both give the losses."""
    config = network_config(tiny)
    ours = Ours(SNP(config))
    step = _Step(ours, make_params(ours.model))
    functions = {}
    for name, batch in train_batches(side, config.bert.vocab_size).items():
        cut = jax.device_put(batch.trimmed())
        functions[name] = functools.partial(step, cut)
        functions[f"first {name}"] = functools.partial(step.first, name, cut)
    return functions


class _Step:
    """The training step; its batches share one state."""

    def __init__(self, ours: Ours, params: Any):
        self._params, self._init = params, jax.jit(ours.optimizer().init)
        self._step = ours.train_step(ours.task())
        self._state: Any = None

    def first(self, name: str, batch: Any) -> dict[str, float]:
        self._state = None  # two states need not fit
        first = jax.tree.map(jax.numpy.array, self._params)
        self._state = (first, self._init(first))
        return timed(f"compiling {name}, {batch.ids.shape[1]} tokens", lambda: self(batch))

    def __call__(self, batch: Any) -> dict[str, float]:
        """One update on a batch; returns every loss term and the gradient norm."""
        params, opt_state, terms = self._step(*self._state, batch)
        self._state = (params, opt_state)
        return {name: float(value) for name, value in jax.block_until_ready(terms).items()}


def inference(tiny: bool, side: int) -> Functions:
    """ "infer": similarity by clip and matching score of `infer_batch`."""
    config = network_config(tiny)
    ours = Ours(SNP(config))
    batch = infer_batch(side, config.bert.vocab_size).trimmed()
    placed = jax.device_put((make_params(ours.model), batch.frames, batch.ids, batch.mask))
    score = jax.jit(ours.score)
    return {"infer": lambda: jax.device_get(score(*placed))}
