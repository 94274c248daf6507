"""The main job from nothing to a report, on the embedded corpus: every stage is a public command, printed before it runs.

    python tools/quickstart.py [--root runs/quickstart] [--seed 0]

A stage whose product exists is not run again; after Ctrl-C the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from snp_jax.children import run_together
from snp_jax.errors import EXIT_STOPPED, UserError, run_cli

TASKS = ("retrieval", "qa", "choice")
STEPS_WITHOUT = {"retrieval": 11, "qa": 21, "choice": 26}
"""Steps without pre-training that take the time of the steps with it."""
RATE_WITHOUT = 4e-3
"""Their learning rate: fresh weights need a higher one."""
XLA_FLAGS = "--xla_backend_optimization_level=1"
"""Compiles in nine tenths of the time what then runs as fast."""


class Stage(NamedTuple):
    """A command, and the file that exists when it is done."""

    name: str
    product: Path
    command: str


def stages(root: Path, seed: int) -> list[tuple[Stage, ...]]:
    """In order; stages that stand together run side by side."""

    def train(name: str, config: str, start: str = "", more: str = "") -> Stage:
        command = f"-m snp_jax.train --config configs/toy/{config} --workdir {root}/{name} --config.seed={seed}"
        return Stage(name, root / name / "DONE", f"{command} --config.train.init_from={start}{more}")

    def fine_tune(task: str) -> tuple[Stage, ...]:
        """From the pre-trained model and, for the same time, from fresh weights: such a step trains the visual encoder too."""
        steps = STEPS_WITHOUT[task]
        more = f" '--config.optim.freeze=()' --config.train.steps={steps} --config.optim.learning_rate={RATE_WITHOUT}"
        more += f" --config.optim.milestones={2 * steps // 3},{6 * steps // 7}"
        fresh = train(f"{task}_no_pretraining", f"{task}.py", more=more)
        return train(task, f"{task}.py", f"{root}/pretrain"), fresh

    def evaluate(name: str) -> Stage:
        config, out = f"configs/toy/{name.split('_')[0]}.py", root / f"eval/{name}.json"
        command = f"tools/eval.py --config {config} --checkpoint {root}/{name} --out {out}"
        if name == "retrieval":  # the report shows some of its queries
            command += f" --scores {out.with_suffix('.npz')}"
        return Stage(f"eval_{name}", out, command)

    return [
        (Stage("corpus", root / "corpus/README.md", f"-m snp_jax.data.toy --out {root}/corpus --seed {seed}"),),
        (Stage("dataset", root / "tfds/prepared.json",
               f"tools/prepare.py folder --data {root}/corpus --out {root}/tfds --reencode mjpeg --short-side 96"),
         Stage("tokenizer", root / "tokenizer.model",
               f"tools/train_tokenizer.py --data {root}/corpus --vocab-size 400 --out {root}/tokenizer.model"),
         Stage("significant_words", root / "words.json",
               f"tools/mine_significant_words.py --data {root}/corpus --jobs 1 --out {root}/words.json")),
        (train("tagging_frames", "tagging.py"),),
        (train("tagging", "tagging.py:clips", f"{root}/tagging_frames"),),
        (train("pretrain", "pretrain.py", f"{root}/tagging"),),
        *(fine_tune(task) for task in TASKS),
        *((evaluate(task), evaluate(f"{task}_no_pretraining")) for task in TASKS),
        (Stage("report", root / "report.html", f"tools/report.py --root {root}"),),
    ]  # fmt: skip


def run_stages(group: Sequence[Stage], root: Path, environment: Mapping[str, str]) -> None:
    """Runs stages side by side; the first one's output is shown, that of the others goes to files."""
    logs = [None, *(root / f"logs/{stage.name}.txt" for stage in group[1:])]
    for stage, log in zip(group, logs, strict=True):
        beside = "" if log is None else f"beside it (output in {log}), "
        print(f"{beside}{stage.name}: python {stage.command}", flush=True)
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
    code = run_together([[sys.executable, *shlex.split(stage.command)] for stage in group], environment, logs)
    missing = [stage.name for stage in group if not stage.product.exists()]
    if code or missing:
        names = " and ".join(missing or [stage.name for stage in group])
        how = "was stopped" if code == EXIT_STOPPED else f"did not finish (exit code {code})"
        where = "" if len(group) == 1 else f", see also {root}/logs"
        raise UserError(f"stage {names} {how}{where}; run the same command again to go on from here")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(options.root / "compiled"))
    environment = {"XLA_FLAGS": XLA_FLAGS, **os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    clock = options.root / "seconds.json"
    seconds = json.loads(clock.read_text()) if clock.exists() else {}
    listed = stages(options.root, options.seed)
    for number, group in enumerate(listed, start=1):
        group = [stage for stage in group if not stage.product.exists() or stage.name == "report"]
        if not group:
            continue
        print(f"\n[{number}/{len(listed)}] ", end="")
        begin, name = time.monotonic(), " + ".join(stage.name for stage in group)
        try:
            run_stages(group, options.root, environment)
        finally:
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - begin, 1)
            clock.write_text(json.dumps(seconds, indent=2) + "\n")
    print(f"\n{sum(seconds.values()) / 60:.1f} minutes in all; open {options.root}/report.html")


if __name__ == "__main__":
    run_cli(main)
