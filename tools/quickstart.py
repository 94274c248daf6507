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
from pathlib import Path

from snp_jax.children import run_together
from snp_jax.errors import EXIT_STOPPED, UserError, run_cli

TASKS = ("retrieval", "qa", "choice")


def stages(root: Path, seed: int) -> list[tuple[str, Path, str]]:
    """(name, product, command) in order."""
    train = "-m snp_jax.train --config configs/toy/{0}.py --workdir {1}/{2} --config.seed={3}"
    listed = [
        ("corpus", root / "corpus/README.md", f"-m snp_jax.data.toy --out {root}/corpus --seed {seed}"),
        ("dataset", root / "tfds/prepared.json",
         f"tools/prepare.py folder --data {root}/corpus --out {root}/tfds --reencode mjpeg --short-side 96"),
        ("tokenizer", root / "tokenizer.model",
         f"tools/train_tokenizer.py --data {root}/corpus --vocab-size 400 --out {root}/tokenizer.model"),
        ("significant_words", root / "words.json",
         f"tools/mine_significant_words.py --data {root}/corpus --jobs 2 --out {root}/words.json"),
        ("tagging", root / "tagging/DONE", train.format("tagging", root, "tagging", seed)),
        ("pretrain", root / "pretrain/DONE",
         train.format("pretrain", root, "pretrain", seed) + f" --config.train.init_from={root}/tagging"),
    ]  # fmt: skip
    for task in TASKS:
        start = f" --config.train.init_from={root}/pretrain"
        listed.append((task, root / task / "DONE", train.format(task, root, task, seed) + start))
    for task in TASKS:  # the same training from fresh weights
        name = f"{task}_no_pretraining"
        start = " --config.train.init_from="
        listed.append((name, root / name / "DONE", train.format(task, root, name, seed) + start))
    for name in (*TASKS, *(f"{task}_no_pretraining" for task in TASKS)):
        config, out = f"configs/toy/{name.split('_')[0]}.py", root / f"eval/{name}.json"
        listed.append((f"eval_{name}", out, f"tools/eval.py --config {config} --checkpoint {root}/{name} --out {out}"))
    listed.append(("report", root / "report.html", f"tools/report.py --root {root}"))
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(options.root / "compiled"))
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    clock = options.root / "seconds.json"
    seconds = json.loads(clock.read_text()) if clock.exists() else {}
    listed = stages(options.root, options.seed)
    for number, (name, product, command) in enumerate(listed, start=1):
        if product.exists() and name != "report":
            continue
        print(f"\n[{number}/{len(listed)}] {name}: python {command}", flush=True)
        begin = time.monotonic()
        code = run_together([[sys.executable, *shlex.split(command)]], environment)
        seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - begin, 1)
        clock.write_text(json.dumps(seconds, indent=2) + "\n")
        if code or not product.exists():
            how = "was stopped" if code == EXIT_STOPPED else f"did not finish (exit code {code})"
            raise UserError(f"stage {name} {how}; run the same command again to go on from here")
    print(f"\n{sum(seconds.values()) / 60:.1f} minutes in all; open {options.root}/report.html")


if __name__ == "__main__":
    run_cli(main)
