"""Evaluates a trained run and prints its table.

    python tools/eval.py --config configs/toy/retrieval.py --checkpoint runs/quickstart/retrieval --out results.json

The task, the data and the protocol come from the config (`--config.evaluation.split=val` overrides a key); the model
comes from the checkpoint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from snp_jax.errors import run_cli


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="configs/<experiment>.py; --config.key=value overrides a key")
    parser.add_argument("--checkpoint", type=Path, required=True, help="working directory of a run, or one of its checkpoints")
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    arguments, overrides = parser.parse_known_args()

    from snp_jax.eval.evaluate import evaluate
    from snp_jax.eval.tables import format_results
    from snp_jax.train.config import parse_config
    from snp_jax.train.restore import open_run

    config = parse_config(arguments.config, overrides)
    results = evaluate(open_run(arguments.checkpoint), config).results
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(format_results(results))


if __name__ == "__main__":
    run_cli(main)
