"""Compares this project with numbers recorded from the authors' PyTorch code, one line a case.

    python tools/parity.py --goldens ../shared/goldens --json parity.json

A line has the largest absolute error of outputs, losses and gradients, and in parentheses the largest error relative to the
largest magnitude of its recorded array. Allowed are 1e-4 for outputs and losses and 1e-3 for gradients. The exit status is 1
if a case fails or is of an unknown kind.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from snp_jax.errors import run_cli


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--goldens", type=Path, required=True, help="folder of cases")
    parser.add_argument("--json", type=Path, help="where every comparison goes")
    arguments = parser.parse_args()

    from snp_jax.parity.run import format_result, run_folder, to_json

    results = []
    for result in run_folder(arguments.goldens):
        results.append(result)
        print(format_result(result), flush=True)
    failed = sum(not result.passed for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(to_json(results))
    return 1 if failed else 0


if __name__ == "__main__":
    run_cli(main)
