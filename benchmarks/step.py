"""The pre-training step and inference of SNP-PVT against PyTorch: `python benchmarks/step.py --json results.json`.

Both sides have the same weights, batch and random choices, and their losses are compared before anything is timed. Each runs in
a process of its own (`sides.py`), one at a time. The peer pads captions to 30 tokens; ours leave padding out, as in training
(`config.text.bucket` and `pack`). The processes of both sides keep the memory they free, as our command lines do; with
`--malloc default` both give it back, as others do. Needs the `parity` extra. Half an hour on two slow idle cores; stopped, the
same command goes on from the file. `--quick` tries everything with a tiny network.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from pathlib import Path

THREADS = 2
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = str(THREADS)
if hasattr(os, "sched_setaffinity"):  # XLA has as many threads as it sees cores
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])

import numpy as np  # noqa: E402
import our_side  # noqa: E402
from problem import ATTENDED, FULL, REAL, REAL_LENGTHS, Ours, make_params, network_config  # noqa: E402
from sides import Side, compare_losses  # noqa: E402
from timing import Results, interleave  # noqa: E402

from snp_jax import host_memory  # noqa: E402
from snp_jax.models.snp import SNP  # noqa: E402

TOLERANCE = 1e-4
"""Largest difference of a loss from the peer's."""
RATIOS = {
    "train_vs_torch_eager": ("train", "torch eager", REAL),
    "train_equal_work_vs_torch_eager": ("train", "torch eager", FULL),
    "train_vs_torch_compile": ("train", "torch compile", REAL),
    "train_equal_work_vs_torch_compile": ("train", "torch compile", FULL),
    "train_attended_vs_torch_eager": ("train", "torch eager", ATTENDED),
    "infer_vs_torch_eager": ("infer", "torch eager", "ours"),
}
"""Name -> section, the other, ours."""


def train_section(results: Results, tiny: bool, side: int, rounds: int) -> None:
    """Equality of the losses, then the steps in turn."""
    import peer_side  # not above: our side's process imports this module, and is to be without PyTorch

    with (
        Side(our_side.training, tiny, side) as ours,
        Side(peer_side.training, tiny, side, False) as eager,
        Side(peer_side.training, tiny, side, True) as compiled,
    ):
        first = {name: ours.call(f"first {name}") for name in (REAL, FULL, ATTENDED)}
        others = {name: eager.call(f"first {name}") for name in first}
        differences = {name: compare_losses(name, first[name], other, TOLERANCE) for name, other in others.items()}
        other = compiled.call(f"first {REAL}")
        differences["torch compile"] = compare_losses("torch compile", first[REAL], other, TOLERANCE)
        results.content["loss_difference"] = differences
        competitors = {"torch eager": lambda: eager.call("step"), "torch compile": lambda: compiled.call("step")}
        competitors |= {name: (lambda name=name: ours.call(name)) for name in first}
        interleave(results, "train", competitors, rounds)


def infer_section(results: Results, tiny: bool, side: int, rounds: int) -> None:
    """One video of 16 clips and one caption: features, stage-1 similarity and matching score."""
    import peer_side

    with Side(our_side.inference, tiny, side) as ours, Side(peer_side.inference, tiny, side) as eager:
        mine, theirs = lambda: ours.call("infer"), lambda: eager.call("infer")
        worst = max(float(np.abs(a - b).max()) for a, b in zip(mine(), theirs(), strict=True))
        print(f"inference: largest difference {worst:.1e}", flush=True)
        if not worst <= TOLERANCE:
            raise SystemExit(f"inference: the two sides differ by {worst}")
        results.content["inference_difference"] = worst
        interleave(results, "infer", {"torch eager": theirs, "ours": mine}, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="F", help="results; an unfinished file is completed")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each competitor (default 5)")
    sections = ["train", "infer", "parts", "scaling"]
    parser.add_argument("--only", nargs="+", choices=sections, default=sections, metavar="SECTION")
    parser.add_argument(
        "--malloc", choices=("keep", "default"), default="keep", help="freed memory, of both sides (default keep)"
    )
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also draw where the time goes")
    parser.add_argument("--quick", action="store_true", help="a tiny network, 2 rounds: tries the benchmark out")
    parser.add_argument("--fresh", action="store_true", help="forget what the file holds")
    args = parser.parse_args()
    rounds, side = (2, 64) if args.quick else (args.rounds, 224)
    if args.malloc == "keep" and not host_memory.ENVIRONMENT.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | host_memory.ENVIRONMENT)  # read at the start
    versions = {name: importlib.metadata.version(name) for name in ("torch", "jax")}
    settings = {
        "tiny": args.quick,
        "pairs": len(REAL_LENGTHS),
        "side": side,
        "threads": THREADS,
        "malloc": args.malloc,
        **versions,
    }
    results = Results(args.json, settings, resume=not args.fresh)
    if "train" in args.only:
        train_section(results, args.quick, side, rounds)
    if "infer" in args.only:
        infer_section(results, args.quick, side, rounds)
    results.summarise(RATIOS)
    if {"parts", "scaling"} & set(args.only):
        parts_and_scaling(results, args.only, args.quick, side)
        results.summarise(RATIOS)
    if args.picture:
        import picture

        picture.draw(results.content, args.picture)


def parts_and_scaling(results: Results, wanted: list[str], tiny: bool, side: int) -> None:
    """Both sides in this process."""
    import parts
    import torch

    torch.set_num_threads(THREADS)
    if "parts" in wanted:
        config = network_config(tiny)
        ours = Ours(SNP(config))
        parts.parts_section(results, config, ours, make_params(ours.model), side, rounds=2 if tiny else 3)
    if "scaling" in wanted:
        parts.scaling_section(results)


if __name__ == "__main__":
    main()
