"""PyTorch's side of `step.py`: functions for a process in which JAX only makes weights and batches."""

from __future__ import annotations

import functools
from typing import Any

import jax
import torch
from peer import Peer, load_weights, make_optimizer, tensors_of
from problem import REAL, infer_batch, make_params, network_config, train_batches
from sides import Functions
from timing import timed

from configs import common
from snp_jax.models.snp import SNP
from snp_jax.train.build import build_optim


def training(tiny: bool, side: int, compiled: bool, repeats: int = 1, dtype: str = "float32", device: str = "cpu") -> Functions:
    """ "step" is a step on the batch of real captions, padded; "first NAME" one from the first weights on that batch.

    "peak_gib" is the memory of the GPU that all so far have taken at most.
    """
    jax.config.update("jax_platforms", "cpu")  # a GPU is PyTorch's
    config = network_config(tiny)
    batches = train_batches(side, config.bert.vocab_size, repeats)
    placed = {name: tuple(tensor.to(device) for tensor in tensors_of(batch)) for name, batch in batches.items()}
    step = _Step(config, make_params(SNP(config)), compiled=compiled, dtype=getattr(torch, dtype), device=device)
    functions: dict[str, Any] = {"peak_gib": lambda: torch.cuda.max_memory_allocated() / 2**30}
    functions |= {f"first {name}": functools.partial(step.first, arguments) for name, arguments in placed.items()}
    return functions | {"step": functools.partial(step, placed[REAL])}


class _Step:
    """The training step; `compiled` sends its loss through `torch.compile`."""

    def __init__(self, config: Any, params: Any, *, compiled: bool, dtype: torch.dtype, device: str):
        self._peer = Peer(config).to(device)
        self._cast = torch.autocast(device, dtype, enabled=dtype != torch.float32)
        self._config, self._params = config, params
        self._loss = torch.compile(self._peer.loss, dynamic=False) if compiled else self._peer.loss
        self._name = "torch.compile" if compiled else "torch eager"

    def first(self, arguments: tuple[torch.Tensor, ...]) -> dict[str, float]:
        load_weights(self._peer, self._config, self._params)
        self._optimizer = make_optimizer(self._peer, build_optim(common.base("pretrain")))
        return timed(f"{self._name}, the first step", lambda: self(arguments))

    def __call__(self, arguments: tuple[torch.Tensor, ...]) -> dict[str, float]:
        """One update; returns every loss term and the gradient norm."""
        with self._cast:
            terms = self._loss(*arguments)
        sum(terms.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_(self._peer.parameters(), common.base("pretrain").optim.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {name: float(term) for name, term in terms.items()} | {"gradient_norm": float(norm)}


def inference(tiny: bool, side: int) -> Functions:
    """ "infer": similarity by clip and matching score of `infer_batch`."""
    config = network_config(tiny)
    peer = Peer(config).eval()
    load_weights(peer, config, make_params(SNP(config)))
    arguments = tensors_of(infer_batch(side, config.bert.vocab_size))[:3]

    def infer():
        with torch.inference_mode():
            return [part.numpy() for part in peer.score(*arguments)]

    return {"infer": infer}
