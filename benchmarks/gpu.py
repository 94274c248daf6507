"""The pre-training step of SNP-PVT on one GPU against PyTorch: `python benchmarks/gpu.py --json results.json`.

The networks, objectives and batches of `step.py`, with more pairs, in float32 (without TF32; for the equality of the losses)
and in bfloat16 (ours: activations; PyTorch: autocast). Each competitor has the GPU to itself, in a process of its own.
`--quick` tries everything with a tiny network, on the CPU where there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from pathlib import Path
from typing import Any, NamedTuple

from problem import FULL, REAL, REAL_LENGTHS
from sides import Side
from timing import Results, interleave

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second of a card, by a part of its name (NVIDIA's data sheets)."""
LARGEST = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference of a loss from PyTorch's in float32, relative where the loss is above 1."""


class Competitor(NamedTuple):
    """Who computes the step, on which batch, and how."""

    name: str
    batch: str
    dtype: str
    compiled: bool = False  # of PyTorch

    @property
    def title(self) -> str:
        return f"{self.name}, {self.dtype}"


REFERENCE = Competitor("torch eager", REAL, "float32")
COMPETITORS = (
    REFERENCE,
    Competitor("torch eager", REAL, "bfloat16"),
    Competitor("torch compile", REAL, "bfloat16", compiled=True),
    Competitor("ours, real captions", REAL, "float32"),
    Competitor("ours, real captions", REAL, "bfloat16"),
    Competitor("ours, 30 tokens", FULL, "bfloat16"),
)
RATIOS = {
    "train_bf16_vs_torch_eager": ("torch eager, bfloat16", "ours, real captions, bfloat16"),
    "train_bf16_vs_torch_compile": ("torch compile, bfloat16", "ours, real captions, bfloat16"),
    "train_bf16_equal_work_vs_torch_eager": ("torch eager, bfloat16", "ours, 30 tokens, bfloat16"),
    "train_bf16_equal_work_vs_torch_compile": ("torch compile, bfloat16", "ours, 30 tokens, bfloat16"),
    "train_f32_vs_torch_eager": ("torch eager, float32", "ours, real captions, float32"),
}


def measure(results: Results, competitor: Competitor, tiny: bool, side: int, repeats: int, rounds: int) -> None:
    """First losses, seconds of every step, memory and operations of one competitor."""
    if competitor.name.startswith("torch"):
        import peer_side

        make, more = peer_side.training_on_gpu, (competitor.dtype, competitor.compiled)
    else:
        import our_side

        make, more = our_side.training_on_gpu, (competitor.dtype, competitor.batch)
    title = competitor.title
    with Side(make, tiny, side, repeats, *more) as process:
        losses = process.call("first")
        process.call("step")  # what the second call still does once
        interleave(results, title, {title: lambda: process.call("step")}, rounds)
        found = {"losses": losses, **process.call("facts")}
    results.content.setdefault("found", {})[title] = found
    results.write()
    print(f"{title}: {found}", flush=True)


def summarise(results: Results) -> None:
    """Medians, ratios (above 1: ours faster), pairs a second, share of the card's peak."""
    found = results.content["found"]
    seconds = {title: results.medians(title)[title] for title in found}
    results.content["median_s"] = seconds
    results.content["ratio"] = {
        name: seconds[theirs] / seconds[mine] for name, (theirs, mine) in RATIOS.items() if {theirs, mine} <= seconds.keys()
    }
    peaks = [peak for part, peak in PEAK_FLOPS.items() if part in results.content["settings"]["card"]]
    for title, facts in found.items():
        facts["pairs_per_s"] = results.content["settings"]["pairs"] / seconds[title]
        if peaks and "flops" in facts:
            facts["share_of_bf16_peak"] = facts["flops"] / seconds[title] / peaks[0]
    results.write()
    for name, ratio in results.content["ratio"].items():
        print(f"{name:40} {ratio:.2f}")


def compare(results: Results) -> None:
    """Ends with a sentence where a loss is not the reference's."""
    found = results.content["found"]
    if REFERENCE.title not in found:
        return
    reference = found[REFERENCE.title]["losses"]
    differences: dict[str, dict[str, float]] = {}
    for competitor in COMPETITORS:
        if competitor.batch == REFERENCE.batch and competitor.title in found:
            losses = found[competitor.title]["losses"]
            each = {term: abs(losses[term] - value) / max(1.0, abs(value)) for term, value in reference.items()}
            differences[competitor.title] = each
            print(f"{competitor.title}: largest difference {max(each.values()):.1e}")
    results.content["difference"] = differences
    results.write()
    for competitor in COMPETITORS:
        worst = max(differences.get(competitor.title, {"": 0.0}).values())
        if not worst <= LARGEST[competitor.dtype]:
            raise SystemExit(f"{competitor.title}: a loss differs by {worst:.1e} from PyTorch's in float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="F", help="results; an unfinished file is completed")
    parser.add_argument("--pairs", type=int, default=32, help=f"pairs a step, a multiple of {len(REAL_LENGTHS)} (default 32)")
    parser.add_argument("--rounds", type=int, default=10, help="steps of each competitor (default 10)")
    parser.add_argument("--only", nargs="+", metavar="TITLE", help="of: " + "; ".join(each.title for each in COMPETITORS))
    parser.add_argument("--quick", action="store_true", help="a tiny network, 2 rounds: tries the benchmark out")
    args = parser.parse_args()
    rounds, side = (2, 64) if args.quick else (args.rounds, 224)
    card = _card()
    if card == "CPU" and not args.quick:
        raise SystemExit("PyTorch sees no GPU; --quick tries the benchmark without one, benchmarks/step.py measures the CPU")
    settings: dict[str, Any] = {name: importlib.metadata.version(name) for name in ("torch", "jax")}
    settings |= {"tiny": args.quick, "pairs": args.pairs, "side": side, "card": card}
    results = Results(args.json, settings, resume=True)
    for competitor in COMPETITORS:
        known = competitor.title in results.content.get("found", {})
        if not known and (args.only is None or competitor.title in args.only):
            measure(results, competitor, args.quick, side, args.pairs // len(REAL_LENGTHS), rounds)
    summarise(results)
    compare(results)


def _card() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
