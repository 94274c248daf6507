"""Reads a prepared dataset completely and writes a report: broken files, lengths, sizes, captions, duplicates, samples.

    python tools/check_data.py --data DATASET --out REPORT [--jobs N] [--deep] [--samples 12]

writes REPORT/report.json and REPORT/report.html and prints the numbers. --deep decodes every frame instead of three.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from snp_jax.data import check, check_page
from snp_jax.data.sources.prepared import read_summaries
from snp_jax.data.stream import Reading
from snp_jax.errors import run_cli
from snp_jax.eval.report_style import STYLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared dataset")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the report")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--deep", action="store_true", help="decode every frame")
    parser.add_argument("--samples", type=int, default=12, help="examples per split on the page (default 12)")
    options = parser.parse_args()
    if options.jobs < 0:
        parser.error(f"--jobs must be at least 0 (in this process), found {options.jobs}")
    total = sum(summary.videos for summary in read_summaries(options.data).values())
    reading = Reading(num_workers=options.jobs, num_threads=1)
    with tqdm(total=total, desc="checking", unit="file") as bar:
        report = check.check_dataset(
            options.data, reading=reading, deep=options.deep, samples=options.samples, progress=bar.update
        )
    options.out.mkdir(parents=True, exist_ok=True)
    report.write(options.out / "report.json")
    (options.out / "report.html").write_text(check_page.page(report, STYLE), encoding="utf-8")
    for name, split in report.splits.items():
        broken = ", ".join(f"{count} {reason}" for reason, count in split.broken.items()) or "none broken"
        print(f"{name}: {split.examples:,} examples, {split.captions:,} captions and questions; {broken}")
    for one in report.overlaps:
        print(
            f"{one.first} and {one.second} share {one.ids:,} ids, {one.files:,} files, {one.captions:,} captions or questions"
        )
    print(f"open {options.out / 'report.html'}")


if __name__ == "__main__":
    run_cli(main)
