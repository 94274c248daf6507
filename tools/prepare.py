"""Turns raw videos and annotations into a dataset to train on (TFDS, ArrayRecord).

    python tools/prepare.py folder --data DIR --out OUT [--jobs N] [--allow-unused]

Checks the input first, writes nothing if it is wrong, and never leaves a part of a dataset under the name
OUT. A dataset that is already there is recognised and kept.
"""

from __future__ import annotations

import argparse

from tqdm import tqdm

from snp_jax.data.sources import folder
from snp_jax.data.sources.builder import SplitSummary, prepared_fingerprint, read_summaries, write_dataset
from snp_jax.errors import UserError, run_cli


def main() -> None:
    options = _parse()
    splits = folder.read_folder(options.data, allow_unused=options.allow_unused)
    fingerprint = folder.fingerprint(splits)
    there = prepared_fingerprint(options.out)
    if there is not None and there != fingerprint:
        raise UserError(f"{options.out}: holds a dataset made from other data; delete it or choose another --out")
    if there is None:
        total = sum(len(videos) for videos in splits.values())
        with tqdm(total=2 * total, desc="preparing", unit="step") as bar:  # a video is opened once and copied once
            summaries = folder.summarise(splits, jobs=options.jobs, progress=bar.update)
            write_dataset(splits, summaries, options.out, fingerprint=fingerprint, progress=bar.update)
    else:
        print(f"{options.out}: already prepared from this data")
    print(_table(read_summaries(options.out)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    own = kinds.add_parser("folder", help="videos/ and {train,val,test}.jsonl")
    own.add_argument("--data", required=True, help="the folder")
    own.add_argument("--out", required=True, help="where the dataset goes")
    own.add_argument("--jobs", type=int, default=2, help="videos opened at the same time (default 2)")
    own.add_argument("--allow-unused", action="store_true", help="leave out videos that no line describes")
    return parser.parse_args()


def _table(summaries: dict[str, SplitSummary]) -> str:
    rows = [("split", "videos", "captions", "questions", "choices", "hours", "unreadable", "MB")]
    for split, summary in summaries.items():
        counts = (summary.videos, summary.captions, summary.questions, summary.choices)
        hours, megabytes = f"{summary.seconds / 3600:.2f}", f"{summary.bytes / 1e6:.1f}"
        rows.append((split, *(f"{count:,}" for count in counts), hours, str(summary.unreadable), megabytes))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    run_cli(main)
