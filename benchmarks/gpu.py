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
from sides import Side, compare_losses
from timing import Results, interleave

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second of a card, by a part of its name (NVIDIA's data sheets)."""
LARGEST = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference of a loss from PyTorch's in float32."""
EAGER, COMPILE = "torch eager", "torch compile"


class Competitor(NamedTuple):
    """Who computes the step - `EAGER`, `COMPILE`, or ours on the batch of that name - and the type of activations."""

    name: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}, {self.dtype}"

    @property
    def is_ours(self) -> bool:
        return self.name in (REAL, FULL)

    @property
    def batch(self) -> str:
        return self.name if self.is_ours else REAL


REFERENCE = Competitor(EAGER, "float32")
COMPETITORS = (
    REFERENCE,
    Competitor(EAGER, "bfloat16"),
    Competitor(COMPILE, "bfloat16"),
    Competitor(REAL, "float32"),
    Competitor(REAL, "bfloat16"),
    Competitor(FULL, "bfloat16"),
)


def _steps(theirs: str, mine: str, dtype: str) -> tuple[str, str, str]:
    return "train", str(Competitor(theirs, dtype)), str(Competitor(mine, dtype))


RATIOS = {
    "train_bf16_vs_torch_eager": _steps(EAGER, REAL, "bfloat16"),
    "train_bf16_vs_torch_compile": _steps(COMPILE, REAL, "bfloat16"),
    "train_bf16_equal_work_vs_torch_eager": _steps(EAGER, FULL, "bfloat16"),
    "train_bf16_equal_work_vs_torch_compile": _steps(COMPILE, FULL, "bfloat16"),
    "train_f32_vs_torch_eager": _steps(EAGER, REAL, "float32"),
}
"""As in `step.py`: name -> section, the other, ours."""


def measure(results: Results, competitor: Competitor, tiny: bool, side: int, repeats: int, rounds: int, device: str) -> None:
    """First losses, seconds of every step, memory and operations of one competitor."""
    if competitor.is_ours:
        import our_side

        process, step = Side(our_side.training, tiny, side, repeats, competitor.dtype), competitor.batch
    else:
        import peer_side

        compiled = competitor.name == COMPILE
        process, step = Side(peer_side.training, tiny, side, compiled, repeats, competitor.dtype, device), "step"
    with process:
        found = {"losses": process.call(f"first {competitor.batch}")}
        process.call(step)  # what the second call still does once
        interleave(results, "train", {str(competitor): lambda: process.call(step)}, rounds)
        if device == "cuda":
            found["peak_gib"] = process.call("peak_gib")
        if competitor.is_ours:
            found["flops"] = process.call(f"flops {competitor.batch}")
    results.content.setdefault("found", {})[str(competitor)] = found
    results.write()
    print(f"{competitor}: {found}", flush=True)


def rate(results: Results) -> None:
    """Pairs a second and share of the card's peak of each competitor."""
    settings, medians = results.content["settings"], results.medians("train")
    peaks = [peak for part, peak in PEAK_FLOPS.items() if part in settings["card"]]
    for title, facts in results.content["found"].items():
        facts["pairs_per_s"] = settings["pairs"] / medians[title]
        if peaks and "flops" in facts:
            facts["share_of_bf16_peak"] = facts["flops"] / medians[title] / peaks[0]
    results.write()


def compare(results: Results) -> None:
    """Ends with a sentence where a loss is not the reference's."""
    losses = {title: facts["losses"] for title, facts in results.content["found"].items()}
    if str(REFERENCE) not in losses:
        return
    results.content["difference"] = {
        str(each): compare_losses(str(each), losses[str(each)], losses[str(REFERENCE)], LARGEST[each.dtype])
        for each in COMPETITORS
        if each.batch == REFERENCE.batch and str(each) in losses and each != REFERENCE
    }
    results.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="F", help="results; an unfinished file is completed")
    parser.add_argument("--pairs", type=int, default=32, help=f"pairs a step, a multiple of {len(REAL_LENGTHS)} (default 32)")
    parser.add_argument("--rounds", type=int, default=10, help="steps of each competitor (default 10)")
    titles = [str(each) for each in COMPETITORS]
    parser.add_argument("--only", nargs="+", choices=titles, metavar="TITLE", help="of: " + "; ".join(titles))
    parser.add_argument("--quick", action="store_true", help="a tiny network, 2 rounds: tries the benchmark out")
    args = parser.parse_args()
    import torch  # not above: our side's process imports this module, and is to be without PyTorch

    rounds, side = (2, 64) if args.quick else (args.rounds, 224)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    if card == "CPU" and not args.quick:
        raise SystemExit("PyTorch sees no GPU; --quick tries the benchmark without one, benchmarks/step.py measures the CPU")
    settings: dict[str, Any] = {name: importlib.metadata.version(name) for name in ("torch", "jax")}
    settings |= {"tiny": args.quick, "pairs": args.pairs, "side": side, "card": card}
    results = Results(args.json, settings, resume=True)
    device = "cpu" if card == "CPU" else "cuda"
    for competitor in COMPETITORS:
        known = str(competitor) in results.content.get("found", {})
        if not known and (args.only is None or str(competitor) in args.only):
            measure(results, competitor, args.quick, side, args.pairs // len(REAL_LENGTHS), rounds, device)
    results.summarise(RATIOS)
    rate(results)
    compare(results)


if __name__ == "__main__":
    main()
