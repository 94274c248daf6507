"""Compiles a config's real step for a TPU slice that is not there, and reports memory, arithmetic, time and communication.

    python tools/aot.py --config configs/pretrain/vst_webvid.py --topology v5e:16x16 --batch 4096 --json report.json
    python tools/aot.py --config configs/pretrain/vst_webvid.py --topology gpu:8 --export step.jaxexport

Needs libtpu for TPUs (`pip install 'snp-jax[tpu-aot]'`), no TPU. Without --batch the largest batch is sought that fits, with
--full the one that gives most examples a second. Text files that the config names may be absent. The exit status is 1, with a
sentence, if the step does not fit or breaks a budget.
Times are estimates. `gpu:<n>` lowers the step for n CUDA devices instead and writes it as a `jax.export` file.
docs/scaling.md explains the report.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from snp_jax.errors import run_cli


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="configs/<experiment>.py; --config.key=value overrides a key")
    parser.add_argument("--topology", required=True, help="v5e:16x16, v5p:4x4x4, v5e-256, ... or gpu:8")
    parser.add_argument("--batch", type=int, help="global batch (evaluation: rows of a pass); default: sought")
    parser.add_argument(
        "--step", choices=("train", "videos", "pairs"), default="train", help="training, or a pass of evaluation"
    )
    parser.add_argument(
        "--full", action="store_true", help="compile as for a run: slower, and the time is the compiler's estimate"
    )
    parser.add_argument("--json", type=Path, help="where the report goes")
    parser.add_argument("--hlo", type=Path, help="where the compiled program's text goes")
    parser.add_argument("--export", type=Path, help="gpu:<n>: where the exported step goes")
    arguments, overrides = parser.parse_known_args()

    from snp_jax.aot.chips import check_libtpu, find_topology, prepare_environment

    for_gpu = arguments.topology.startswith("gpu:")
    topology = None if for_gpu else find_topology(arguments.topology)

    from snp_jax.train.config import parse_config

    config = parse_config(arguments.config, overrides)
    if for_gpu:
        from snp_jax.aot.export import export_for_gpu

        report = export_for_gpu(
            config, arguments.topology, arguments.batch or config.batch_size, arguments.step, arguments.export
        )
        text, wrong = report["summary"], []
    else:
        from snp_jax.aot.measure import measure
        from snp_jax.aot.report import failures, format_report

        check_libtpu()
        prepare_environment(quick=not arguments.full)
        report = measure(
            config, topology, batch=arguments.batch, step=arguments.step, keep=arguments.hlo,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )  # fmt: skip
        text, wrong = format_report(report), failures(report)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"config": arguments.config, **report}, indent=1) + "\n")
    print(text)
    for sentence in wrong:
        print(f"error: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    run_cli(main)
