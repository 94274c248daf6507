"""The main job from nothing to a report, on the embedded corpus: every stage is a public command, printed before it runs.

    python tools/quickstart.py [--root runs/quickstart] [--seed 0]

A stage whose product exists is not run again; after Ctrl-C the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from snp_jax.children import Children
from snp_jax.errors import EXIT_STOPPED, UserError, run_cli

TASKS = ("retrieval", "qa", "choice")
STEPS_WITHOUT = {"retrieval": 11, "qa": 21, "choice": 26}
"""Steps without pre-training that take the time of the steps with it."""
RATE_WITHOUT = 4e-3
"""Their learning rate: fresh weights need a higher one."""
XLA_FLAGS = "--xla_backend_optimization_level=1"
"""Compiles in nine tenths of the time what then runs as fast."""
AT_ONCE = 2
"""Stages side by side: most of a short run is start-up and compilation, which keep one core busy."""


class Stage(NamedTuple):
    """A command, the stages it needs, and the file that exists when it is done."""

    name: str
    needs: tuple[str, ...]
    product: Path
    command: str


def stages(root: Path, seed: int) -> list[Stage]:
    """Most urgent first."""

    def train(name: str, config: str, start: str = "", more: str = "") -> Stage:
        """From the parameters of the run `start`, or from fresh ones."""
        command = f"-m snp_jax.train --config configs/toy/{config} --workdir {root}/{name} --config.seed={seed}"
        command += f" --config.train.init_from={root / start if start else ''}{more}"
        return Stage(name, (start,) if start else ("dataset", "tokenizer", "significant_words"), root / name / "DONE", command)

    def without_pretraining(task: str) -> Stage:
        """For the time that fine-tuning takes from the pre-trained model: such a step trains the visual encoder too."""
        steps = STEPS_WITHOUT[task]
        more = f" '--config.optim.freeze=()' --config.train.steps={steps} --config.optim.learning_rate={RATE_WITHOUT}"
        more += f" --config.optim.milestones={2 * steps // 3},{6 * steps // 7}"
        return train(f"{task}_no_pretraining", f"{task}.py", more=more)

    def evaluate(name: str) -> Stage:
        config, out = f"configs/toy/{name.split('_')[0]}.py", root / f"eval/{name}.json"
        command = f"tools/eval.py --config {config} --checkpoint {root}/{name} --out {out}"
        if name == "retrieval":  # the report shows some of its queries
            command += f" --scores {out.with_suffix('.npz')}"
        return Stage(f"eval_{name}", (name,), out, command)

    evaluations = [evaluate(task) for task in TASKS], [evaluate(f"{task}_no_pretraining") for task in TASKS]
    return [
        Stage("corpus", (), root / "corpus/README.md", f"-m snp_jax.data.toy --out {root}/corpus --seed {seed}"),
        Stage("dataset", ("corpus",), root / "tfds/prepared.json",
              f"tools/prepare.py folder --data {root}/corpus --out {root}/tfds --reencode mjpeg --short-side 96"),
        Stage("tokenizer", ("corpus",), root / "tokenizer.model",
              f"tools/train_tokenizer.py --data {root}/corpus --vocab-size 400 --out {root}/tokenizer.model"),
        Stage("significant_words", ("corpus",), root / "words.json",
              f"tools/mine_significant_words.py --data {root}/corpus --jobs 1 --out {root}/words.json"),
        train("tagging_frames", "tagging.py"),
        train("tagging", "tagging.py:clips", "tagging_frames"),
        train("pretrain", "pretrain.py", "tagging"),
        *(train(task, f"{task}.py", "pretrain") for task in TASKS),
        *evaluations[0],
        *(without_pretraining(task) for task in TASKS),
        *evaluations[1],
        Stage("report", tuple(stage.name for group in evaluations for stage in group), root / "report.html",
              f"tools/report.py --root {root}"),
    ]  # fmt: skip


class Clock:
    """Seconds of each stage and in all, over every time that the command was run; in a file that the report reads."""

    def __init__(self, file: Path):
        self._file = file
        self._kept = json.loads(file.read_text()) if file.exists() else {"stages": {}, "in_all": 0.0}
        self._start, self._before = time.monotonic(), self._kept["in_all"]

    def add(self, name: str, seconds: float) -> None:
        stages = self._kept["stages"]
        stages[name] = round(stages.get(name, 0.0) + seconds, 1)
        self._kept["in_all"] = round(self._before + time.monotonic() - self._start, 1)
        self._file.write_text(json.dumps(self._kept, indent=2) + "\n")

    @property
    def minutes(self) -> float:
        return self._kept["in_all"] / 60


class Running(NamedTuple):
    stage: Stage
    log: Path | None
    begin: float


def run_stages(listed: Sequence[Stage], root: Path, environment: Mapping[str, str], clock: Clock) -> None:
    """Runs what is not done, each stage as soon as those it needs are, the most urgent first.

    One of those that run is in front: its output is shown. What runs behind it gets the processor time that is left, and writes
    to a file.

    Raises:
        UserError: a stage failed or was stopped; the others were asked to save first.
    """
    waiting = [stage for stage in listed if not stage.product.exists() or stage is listed[-1]]  # the last one reports
    running: dict[subprocess.Popen, Running] = {}
    failed: str | None = None

    def start(stage: Stage, children: Children) -> None:
        behind = any(each.log is None for each in running.values())
        log = root / f"logs/{stage.name}.txt" if behind else None
        print(f"\n[{listed.index(stage) + 1}/{len(listed)}] {stage.name}: python {stage.command}", flush=True)
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            print(f"(beside the other; output in {log})", flush=True)
        child = children.start([sys.executable, *shlex.split(stage.command)], log, behind=behind)
        running[child] = Running(stage, log, time.monotonic())
        waiting.remove(stage)

    with Children(environment) as children:
        while waiting or running:
            not_done = {stage.name for stage in waiting} | {each.stage.name for each in running.values()}
            ready = [stage for stage in waiting if not_done.isdisjoint(stage.needs)]
            room = 0 if failed or children.signalled else AT_ONCE - len(running)
            for stage in ready[:room]:
                start(stage, children)
            if not running:
                break
            if all(each.log is not None for each in running.values()):
                print(f"\nwaiting for {' and '.join(each.stage.name for each in running.values())}", flush=True)
            child, code = children.wait()
            stage, log, begin = running.pop(child)
            clock.add(stage.name, time.monotonic() - begin)
            if (code or not stage.product.exists()) and failed is None:
                how = "was stopped" if code == EXIT_STOPPED or children.signalled else f"did not finish (exit code {code})"
                failed = f"stage {stage.name} {how}{f', see {log}' if log else ''}"
                children.ask_to_stop()
    if failed or waiting:
        raise UserError(f"{failed or f'stopped before stage {waiting[0].name}'}; run the same command again to go on from here")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(options.root / "compiled"))
    environment = {"XLA_FLAGS": XLA_FLAGS, **os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    clock = Clock(options.root / "clock.json")
    run_stages(stages(options.root, options.seed), options.root, environment, clock)
    print(f"\n{clock.minutes:.1f} minutes in all; open {options.root}/report.html")


if __name__ == "__main__":
    run_cli(main)
