"""Evaluates a trained run and prints its table, or prints a table about the models.

    python tools/eval.py --config configs/toy/retrieval.py --checkpoint runs/quickstart/retrieval --out results.json
    python tools/eval.py --table parameters

The task, the data and the protocol come from the config (`--config.evaluation.split=val` overrides a key); the model
comes from the checkpoint. `--table parameters` counts the parameters of every network beside the paper's Table II.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from snp_jax.errors import UserError, run_cli
from snp_jax.host_memory import keep_freed_memory


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--config", help="configs/<experiment>.py; --config.key=value overrides a key")
    parser.add_argument("--checkpoint", type=Path, help="working directory of a run, or one of its checkpoints")
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    parser.add_argument("--scores", type=Path, help="of retrieval: where every score goes, as .npz (docs/training.md)")
    parser.add_argument("--table", choices=("parameters",), help="a table that needs no run")
    arguments, overrides = parser.parse_known_args()
    if arguments.table:
        if overrides or arguments.config or arguments.checkpoint or arguments.out or arguments.scores:
            raise UserError(f"--table {arguments.table} takes no other argument")
        print_parameters()
        return
    if not arguments.config or not arguments.checkpoint:
        raise UserError("--config and --checkpoint are both needed to evaluate a run (or --table parameters alone)")

    keep_freed_memory()
    from snp_jax.eval.evaluate import evaluate
    from snp_jax.eval.scores import save_scores
    from snp_jax.eval.tables import format_results
    from snp_jax.train.config import parse_config
    from snp_jax.train.restore import open_run

    config = parse_config(arguments.config, overrides)
    if arguments.scores and config.task not in ("pretrain", "retrieval"):
        raise UserError(f"--scores is for retrieval; {arguments.config} evaluates {config.task}: leave it out")
    results, scores = evaluate(open_run(arguments.checkpoint), config)
    if arguments.scores:
        save_scores(arguments.scores, scores)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(format_results(results))


def print_parameters() -> None:
    """Prints the parameter counts."""
    from snp_jax.eval.parameters import parameter_tables
    from snp_jax.eval.tables import format_table

    print("\n\n".join(map(format_table, parameter_tables())))


if __name__ == "__main__":
    run_cli(main)
