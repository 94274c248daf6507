"""The pre-training step and inference of SNP-PVT against PyTorch: `python benchmarks/step.py --json results.json`.

Both sides have the same weights, batch and random choices, and their losses are compared before anything is timed. The peer
pads captions to 30 tokens; ours leave padding out, as in training (`config.text.bucket` and `pack`). Needs the `parity`
extra. Half an hour on two slow idle cores; stopped, the same command goes on from the file. `--quick` tries everything with a
tiny network.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

THREADS = 2
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = str(THREADS)
if hasattr(os, "sched_setaffinity"):  # XLA has as many threads as it sees cores
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])

import jax  # noqa: E402
import numpy as np  # noqa: E402
import parts  # noqa: E402
import picture  # noqa: E402
import torch  # noqa: E402
from peer import Peer, load_weights, make_optimizer, tensors_of  # noqa: E402
from problem import MAX_LEN, REAL_LENGTHS, Ours, make_batch, make_params, network_config  # noqa: E402
from timing import Results, interleave  # noqa: E402

from configs import common  # noqa: E402
from snp_jax.models.snp import SNP  # noqa: E402
from snp_jax.train.build import build_optim  # noqa: E402

TOLERANCE = 1e-4
"""Largest difference of a loss from the peer's."""
CLIPS = 16
"""Clips of the video in inference."""
RATIOS = {
    "train_vs_torch_eager": ("train", "torch eager", "ours, real captions"),
    "train_equal_work_vs_torch_eager": ("train", "torch eager", "ours, 30 tokens"),
    "train_vs_torch_compile": ("train", "torch compile", "ours, real captions"),
    "train_equal_work_vs_torch_compile": ("train", "torch compile", "ours, 30 tokens"),
    "train_attended_vs_torch_eager": ("train", "torch eager", "ours, attended"),
    "infer_vs_torch_eager": ("infer", "torch eager", "ours"),
}
"""Name -> section, the other, ours."""


class PeerStep:
    """The peer's training step on one batch; `compiled` sends its loss through `torch.compile`."""

    def __init__(self, config, params, batch, *, compiled: bool):
        self._peer, self._arguments = Peer(config), tensors_of(batch)
        self._config, self._params = config, params
        self._loss = torch.compile(self._peer.loss, dynamic=False) if compiled else self._peer.loss
        self.reset()

    def reset(self, batch=None) -> None:
        """The first weights again, and another batch if one is given."""
        load_weights(self._peer, self._config, self._params)
        self._optimizer = make_optimizer(self._peer, build_optim(common.base("pretrain")))
        self._arguments = self._arguments if batch is None else tensors_of(batch)

    def __call__(self) -> dict[str, float]:
        """One update; returns every loss term and the gradient norm."""
        terms = self._loss(*self._arguments)
        sum(terms.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_(self._peer.parameters(), common.base("pretrain").optim.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {name: float(term) for name, term in terms.items()} | {"gradient_norm": float(norm)}


class OurStep:
    """Our training step; its batches share one state."""

    def __init__(self, ours: Ours, params: Any):
        self._params, self._init = params, jax.jit(ours.optimizer().init)
        self._step = ours.train_step(ours.task())
        self.reset()

    def reset(self) -> None:
        """The first weights again."""
        self._state = None  # two states need not fit
        first = jax.tree.map(jax.numpy.array, self._params)
        self._state = (first, self._init(first))

    def __call__(self, batch) -> dict[str, float]:
        """One update on a batch; returns every loss term and the gradient norm."""
        params, opt_state, terms = self._step(*self._state, batch)
        self._state = (params, opt_state)
        return {name: float(value) for name, value in jax.block_until_ready(terms).items()}


def train_section(results: Results, config, ours: Ours, params, side: int, rounds: int) -> None:
    """Equality of the losses, then the steps in turn."""
    full = (MAX_LEN,) * len(REAL_LENGTHS)
    make = {
        "ours, real captions": (REAL_LENGTHS, False), "ours, 30 tokens": (full, False), "ours, attended": (REAL_LENGTHS, True),
    }  # fmt: skip
    batches = {name: make_batch(lengths, side, config.bert.vocab_size, attended=on) for name, (lengths, on) in make.items()}
    step = OurStep(ours, params)
    cut = {name: jax.device_put(batch.trimmed()) for name, batch in batches.items()}
    first = {}
    for name, batch in cut.items():
        first[name] = timed(f"compiling {name}, {batch.ids.shape[1]} tokens", lambda batch=batch: step(batch))
        step.reset()
    eager = PeerStep(config, params, batches["ours, real captions"], compiled=False)
    differences = {}
    for name, batch in batches.items():
        eager.reset(batch)
        differences[name] = compare(name, first[name], eager())
    compiled = PeerStep(config, params, batches["ours, real captions"], compiled=True)
    terms = timed("torch.compile", compiled)
    differences["torch compile"] = compare("torch compile", first["ours, real captions"], terms)
    results.content["loss_difference"] = differences
    competitors = {"torch eager": eager, "torch compile": compiled}
    competitors |= {name: (lambda batch=batch: step(batch)) for name, batch in cut.items()}
    interleave(results, "train", competitors, rounds)


def timed(what: str, function):
    """The function's result; says how long it took."""
    start = time.perf_counter()
    result = function()
    print(f"{what}: {time.perf_counter() - start:.1f} s", flush=True)
    return result


def compare(name: str, ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    """Differences of each loss and relative difference of the gradient norm; an error where they are too large."""
    differences = {term: abs(ours[term] - theirs[term]) for term in theirs}
    differences["gradient_norm"] /= theirs["gradient_norm"]
    print(f"{name}: largest difference {max(differences.values()):.1e}; total {sum(ours.values()) - ours['gradient_norm']:.5f}")
    if not max(differences.values()) <= TOLERANCE:
        raise SystemExit(f"{name}: the two sides differ: {differences}")
    return differences


def infer_section(results: Results, config, ours: Ours, params, side: int, rounds: int) -> None:
    """One video of 16 clips and one caption of median length: features, stage-1 similarity and matching score."""
    batch = make_batch((sorted(REAL_LENGTHS)[len(REAL_LENGTHS) // 2],), side, config.bert.vocab_size, clips=CLIPS)
    short, whole, peer = batch.trimmed(), tensors_of(batch), Peer(config).eval()
    load_weights(peer, config, params)
    placed = jax.device_put((params, short.frames, short.ids, short.mask))
    score = jax.jit(ours.score)

    def theirs():
        with torch.inference_mode():
            return [part.numpy() for part in peer.score(*whole[:3])]

    def mine():
        return jax.device_get(score(*placed))

    worst = max(float(np.abs(a - b).max()) for a, b in zip(mine(), theirs(), strict=True))
    print(f"inference: largest difference {worst:.1e}", flush=True)
    if not worst <= TOLERANCE:
        raise SystemExit(f"inference: the two sides differ by {worst}")
    results.content["inference_difference"] = worst
    interleave(results, "infer", {"torch eager": theirs, "ours": mine}, rounds)


def summarise(results: Results) -> None:
    """Medians and ratios (above 1: ours faster) of what has been measured."""
    samples = results.content["samples"]
    results.content["median_s"] = {section: results.medians(section) for section in samples}
    results.content["ratio"] = {
        name: results.medians(section)[theirs] / results.medians(section)[mine]
        for name, (section, theirs, mine) in RATIOS.items()
        if {theirs, mine} <= results.medians(section).keys()
    }
    results.write()
    for name, ratio in results.content["ratio"].items():
        print(f"{name:36} {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="F", help="results; an unfinished file is completed")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each competitor (default 5)")
    parser.add_argument("--only", nargs="+", default=["train", "infer", "parts", "scaling"], metavar="SECTION")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also draw where the time goes")
    parser.add_argument("--quick", action="store_true", help="a tiny network, 2 rounds: tries the benchmark out")
    parser.add_argument("--fresh", action="store_true", help="forget what the file holds")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    rounds, side = (2, 64) if args.quick else (args.rounds, 224)
    settings = {"tiny": args.quick, "pairs": len(REAL_LENGTHS), "side": side, "threads": THREADS, "torch": torch.__version__,
                "jax": jax.__version__}  # fmt: skip
    results = Results(args.json, settings, resume=not args.fresh)
    config = network_config(args.quick)
    ours = Ours(SNP(config))
    params = make_params(ours.model)
    if "train" in args.only:
        train_section(results, config, ours, params, side, rounds)
    if "infer" in args.only:
        infer_section(results, config, ours, params, side, rounds)
    summarise(results)
    if "parts" in args.only:
        parts.parts_section(results, config, ours, params, side, rounds=2 if args.quick else 3)
    if "scaling" in args.only:
        parts.scaling_section(results)
    summarise(results)
    if args.picture:
        picture.draw(results.content, args.picture)


if __name__ == "__main__":
    main()
