"""Command line of the toy corpus: `python -m snp_jax.data.toy --out DIR --seed S`."""

from __future__ import annotations

import argparse
import os
import sys

from snp_jax.data.toy.corpus import write_corpus
from snp_jax.errors import run_cli

INTERRUPTED = 130  # what shells report after Ctrl-C


def main() -> int:
    """Parses the command line and writes the corpus."""
    parser = argparse.ArgumentParser(prog="python -m snp_jax.data.toy", description=__doc__)
    parser.add_argument("--out", required=True, help="folder to write; new, empty, or an interrupted run of the same call")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=3000, help="number of training videos")
    parser.add_argument("--val", type=int, default=300, help="number of validation videos")
    parser.add_argument("--test", type=int, default=500, help="number of test videos")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that render")
    args = parser.parse_args()

    sizes = {"train": args.train, "val": args.val, "test": args.test}
    try:
        written = write_corpus(args.out, args.seed, sizes, args.jobs)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    print(f"{args.out}: {sum(sizes.values())} videos, seed {args.seed}" + ("" if written else " (already complete)"))
    return 0


if __name__ == "__main__":
    run_cli(main)
