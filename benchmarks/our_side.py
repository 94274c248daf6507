"""Our side of `step.py`: functions for a process in which there is no PyTorch."""

from __future__ import annotations

import functools
from typing import Any

import jax
from problem import Ours, infer_batch, make_params, network_config, train_batches
from sides import Functions
from timing import timed

from snp_jax.aot.flops import count_flops, live
from snp_jax.models.snp import SNP


def training(tiny: bool, side: int, repeats: int = 1, dtype: str = "float32") -> Functions:
    """For each of `train_batches`: NAME is a step on it, "first NAME" one from the first weights; both give the losses.

    "flops NAME" counts the operations of such a step, "peak_gib" is the memory of the GPU that all so far have taken at most.
    """
    if dtype == "float32" and jax.default_backend() == "gpu":
        jax.config.update("jax_default_matmul_precision", "highest")  # else TF32
    config = network_config(tiny)
    ours = Ours(SNP(config, jax.numpy.dtype(dtype)))
    step = _Step(ours, make_params(ours.model))
    functions: dict[str, Any] = {"peak_gib": lambda: jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**30}
    for name, batch in train_batches(side, config.bert.vocab_size, repeats).items():
        cut = jax.device_put(batch.trimmed())
        functions[name] = functools.partial(step, cut)
        functions[f"first {name}"] = functools.partial(step.first, name, cut)
        functions[f"flops {name}"] = functools.partial(step.count_flops, cut)
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

    def count_flops(self, batch: Any) -> float:
        """Operations of an update's matrix products and convolutions."""
        return count_flops(live(self._step.trace(*self._state, batch).jaxpr))


def inference(tiny: bool, side: int) -> Functions:
    """ "infer": similarity by clip and matching score of `infer_batch`."""
    config = network_config(tiny)
    ours = Ours(SNP(config))
    batch = infer_batch(side, config.bert.vocab_size).trimmed()
    placed = jax.device_put((make_params(ours.model), batch.frames, batch.ids, batch.mask))
    score = jax.jit(ours.score)
    return {"infer": lambda: jax.device_get(score(*placed))}
