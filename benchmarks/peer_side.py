"""PyTorch's side of `step.py`: functions for a process in which JAX only makes weights and batches."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import torch
from peer import Peer, load_weights, make_optimizer, tensors_of
from problem import REAL, Batch, infer_batch, make_params, network_config, train_batches
from sides import Functions
from timing import timed

from configs import common
from snp_jax.models.snp import SNP
from snp_jax.train.build import build_optim


def training(tiny: bool, side: int, compiled: bool) -> Functions:
    """ "step" is a step on the batch of real captions, padded; "first NAME" one from the first weights on that batch."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config = network_config(tiny)
    batches = train_batches(side, config.bert.vocab_size)
    step = _Step(config, make_params(SNP(config)), compiled=compiled)
    firsts = {f"first {name}": functools.partial(step.first, batch) for name, batch in batches.items()}
    return firsts | {"step": functools.partial(step, tensors_of(batches[REAL]))}


def training_on_gpu(tiny: bool, side: int, repeats: int, dtype: str, compiled: bool) -> Functions:
    """ "first" and "step" give the losses of the batch of real captions, "facts" the memory it took."""
    jax.config.update("jax_platforms", "cpu")  # the GPU is PyTorch's; its float32 is without TF32 by default
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = network_config(tiny)
    batch = train_batches(side, config.bert.vocab_size, repeats)[REAL]
    step = _Step(config, make_params(SNP(config)), compiled=compiled, device=device, dtype=getattr(torch, dtype))
    placed = tuple(tensor.to(device) for tensor in tensors_of(batch))

    def facts() -> dict[str, float]:
        return {"peak_gib": torch.cuda.max_memory_allocated() / 2**30}

    return {"first": functools.partial(step.first, batch), "step": functools.partial(step, placed), "facts": facts}


class _Step:
    """The training step; `compiled` sends its loss through `torch.compile`."""

    def __init__(self, config: Any, params: Any, *, compiled: bool, device: str = "cpu", dtype: torch.dtype = torch.float32):
        self._peer = Peer(config).to(device)
        self._device, self._dtype = device, dtype
        self._config, self._params = config, params
        self._loss = torch.compile(self._peer.loss, dynamic=False) if compiled else self._peer.loss
        self._name = "torch.compile" if compiled else "torch eager"

    def first(self, batch: Batch) -> dict[str, float]:
        load_weights(self._peer, self._config, self._params)
        self._optimizer = make_optimizer(self._peer, build_optim(common.base("pretrain")))
        return timed(
            f"{self._name}, the first step", lambda: self(tuple(tensor.to(self._device) for tensor in tensors_of(batch)))
        )

    def __call__(self, arguments: tuple[torch.Tensor, ...]) -> dict[str, float]:
        """One update; returns every loss term and the gradient norm."""
        with torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
            terms = self._loss(*arguments)
        sum(terms.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_(self._peer.parameters(), common.base("pretrain").optim.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {name: float(term) for name, term in terms.items()} | {"gradient_norm": float(norm)}


def inference(tiny: bool, side: int) -> Functions:
    """ "infer": similarity by clip and matching score of `infer_batch`."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config = network_config(tiny)
    peer = Peer(config).eval()
    load_weights(peer, config, make_params(SNP(config)))
    arguments = tensors_of(infer_batch(side, config.bert.vocab_size))[:3]

    def infer():
        with torch.inference_mode():
            return [part.numpy() for part in peer.score(*arguments)]

    return {"infer": infer}
