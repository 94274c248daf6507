"""What the negatives of stage 2 are worth: the quickstart's pre-training with k of them, and with all pairs of a batch.

    make quickstart
    python benchmarks/negatives.py --json runs/bench/negatives.json [--k 1 2 4 8 0]

Every k is a pre-training run from the quickstart's visual encoder and an evaluation of retrieval without fine-tuning; 0 = all
pairs. Five to thirty minutes each on two cores; results are kept after each, and what the file holds is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from configs.toy.common import ROOT as QUICKSTART
from snp_jax.errors import UserError, run_cli
from snp_jax.eval.report_images import read_curves

CONFIG = "configs/toy/{}.py"


def run(*command: str) -> None:
    subprocess.run([sys.executable, *command], check=True)


def measure(k: int, folder: Path) -> dict[str, float]:
    """Trains and evaluates with k negatives; percentages, and the median step in seconds."""
    workdir, out = folder / "pretrain", folder / "retrieval.json"
    start = f"--config.train.init_from={QUICKSTART}/tagging"
    run("-m", "snp_jax.train", "--config", CONFIG.format("pretrain"), "--workdir", str(workdir), start,
        f"--config.objective.matching.negatives={k}")  # fmt: skip
    run("tools/eval.py", "--config", CONFIG.format("retrieval"), "--checkpoint", str(workdir), "--out", str(out))
    found = json.loads(out.read_text())["retrieval"]
    batch = json.loads((workdir / "config.json").read_text())["batch_size"]
    steps, rates = read_curves(workdir / "metrics.jsonl", ("examples_per_second",))["examples_per_second"]
    return {
        "pairs": batch * batch if k == 0 else batch * (1 + 2 * k),
        "step_s": batch / statistics.median(rates.tolist()),
        "steps": int(steps[-1]),
        "t2v_r1": found["t2v"]["r1"],
        "t2v_r10": found["t2v"]["r10"],
        "v2t_r1": found["v2t"]["r1"],
        "stage1_t2v_r1": found["stage1"]["t2v"]["r1"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="results, read and written")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 2, 4, 8, 0], help="negatives of a text and of a video; 0 = all")
    arguments = parser.parse_args()
    if not Path(QUICKSTART, "tagging/DONE").exists():
        raise UserError(f"{QUICKSTART}/tagging is not there: run make quickstart first, and this from the same folder")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{QUICKSTART}/compiled")
    results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    for k in arguments.k:
        if str(k) not in results:
            results[str(k)] = measure(k, arguments.json.with_suffix("") / f"k{k}")
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    for k, row in results.items():
        print(f"k {k}:", ", ".join(f"{name} {value:.3g}" for name, value in row.items()))


if __name__ == "__main__":
    run_cli(main)
