"""Turns downloaded videos or images and their annotations into a dataset to train on (TFDS, ArrayRecord).

    python tools/prepare.py NAME --manual-dir D --out OUT [--jobs N] [--allow-missing]
        [--reencode [h264|mjpeg] [--short-side N] [--key-frames-every N]] [--beam BEAM'S FLAGS ...]
    python tools/prepare.py folder --data DIR --out OUT [--jobs N] [--allow-unused]

Checks the input first, and never leaves a part of a dataset under the name OUT. A preparation that was killed goes on
where it was; a dataset that is already there is recognised and kept. docs/data.md says which files each dataset
needs.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from snp_jax.data.sources import beam, catalog
from snp_jax.data.sources.builder import builder_for
from snp_jax.data.sources.folder import read_folder
from snp_jax.data.sources.prepare import Options, prepare
from snp_jax.data.sources.prepared import BROKEN_FILE, MISSING_FILE, read_notes, read_summaries, summary_table
from snp_jax.data.sources.reencode import CODECS, Encoding
from snp_jax.errors import run_cli


def main() -> None:
    options = _parse()
    dataset = catalog.find(options.name)
    read = functools.partial(read_folder, allow_unused=True) if options.allow_unused else dataset.read
    how = Options(
        jobs=options.jobs,
        beam=None if options.beam is None else functools.partial(beam.pipeline, options.beam),
        allow_missing=options.allow_missing,
        reencode=options.encoding,
    )
    builder = builder_for(dataset, str(options.out.parent))
    if not prepare(read(options.manual_dir), builder, options.out, how):
        print(f"{options.out}: already prepared from this data")
    print(summary_table(read_summaries(options.out)))
    for note in read_notes(options.out):
        print(f"note: {note}")
    for path in (options.out / MISSING_FILE, options.out / BROKEN_FILE):
        if path.exists():
            print(f"{path} lists what is {path.stem}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.epilog = "\n".join(f"{name:22}{dataset.layout}" for name, dataset in catalog.DATASETS.items())
    parser.add_argument("name", metavar="NAME", help="one of the datasets listed below")
    parser.add_argument("--manual-dir", "--data", type=Path, required=True, help="the files as they were downloaded")
    parser.add_argument("--out", type=Path, required=True, help="where the dataset goes")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--allow-missing", action="store_true", help="go on when files or annotations are missing")
    parser.add_argument("--allow-unused", action="store_true", help="folder: leave out videos that no line describes")
    parser.add_argument("--reencode", nargs="?", const="h264", choices=CODECS, help="store small files that seek fast")
    parser.add_argument("--short-side", type=int, help="with --reencode: pixels at most (default 256)")
    parser.add_argument("--key-frames-every", type=int, help="with --reencode h264: frames (default 12; 1: all)")
    parser.add_argument("--beam", nargs=argparse.REMAINDER, help="last: Apache Beam writes, with these flags of its own")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, found {options.jobs}")
    if options.allow_unused and options.name != "folder":
        parser.error("--allow-unused is for the dataset folder")
    given = {"short_side": options.short_side, "key_every": options.key_frames_every}
    given = {name: value for name, value in given.items() if value is not None}
    if given and options.reencode is None:
        parser.error("--short-side and --key-frames-every need --reencode")
    try:
        options.encoding = Encoding(options.reencode, **given) if options.reencode else None
    except ValueError as error:
        parser.error(f"--reencode: {error}")
    return options


if __name__ == "__main__":
    run_cli(main)
