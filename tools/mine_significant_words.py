"""Finds the significant words of a corpus: verbs, nouns and adjectives with their counts and lemmas.

python tools/mine_significant_words.py --data DATASET_DIR --out words.json
python tools/mine_significant_words.py --captions a.jsonl b.csv --out words.json --jobs 8 --tokenizer vocab.txt
python tools/mine_significant_words.py --release counts.json lemmas.json --out words.json --picture words.png

A run that was stopped goes on where it was: run the same command again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from snp_jax.data.corpus_files import iterate_captions, iterate_training_texts, training_file
from snp_jax.data.text import load_tokenizer
from snp_jax.data.words import DEFAULT_ABANDON, DEFAULT_TOP_K, MinedWords, save_words
from snp_jax.data.words_mining import mine_words
from snp_jax.data.words_parts import Parts, describe_files
from snp_jax.data.words_release import import_release
from snp_jax.data.words_report import PICTURE_SUFFIXES, draw_words, text_report
from snp_jax.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="a folder dataset or a prepared one: the captions of its train split")
    source.add_argument("--captions", nargs="+", help=".txt (a caption a line), .jsonl, .csv or .tsv files")
    source.add_argument("--release", nargs="+", help="the release's word table and, after it, its lemma lists")
    parser.add_argument("--out", required=True, help="the words.json to write; work that is not done lies in <out>.parts")
    parser.add_argument("--jobs", type=int, help="processes (default: all cores; no influence on the result)")
    parser.add_argument(
        "--abandon",
        default=",".join(DEFAULT_ABANDON),
        help="words that are never significant, comma-separated (default: %(default)s; for WebVid the paper "
        "adds background,backgrounds)",
    )
    parser.add_argument("--tokenizer", help="also report how many words are significant for this tokeniser")
    parser.add_argument("--top-k", type=int, default=DEFAULT_TOP_K, help="for the report (default: %(default)s)")
    parser.add_argument("--picture", help="also draw the most frequent words (.png, .svg or .pdf)")
    args = parser.parse_args()
    if args.jobs is not None and args.jobs < 1:
        parser.error(f"--jobs must be at least 1, found {args.jobs}")
    if args.picture and Path(args.picture).suffix not in PICTURE_SUFFIXES:
        parser.error(f"--picture must end in {', '.join(PICTURE_SUFFIXES)}, found {args.picture}")

    # Read before the long part, so that a wrong path fails at once.
    tokenizers = {args.tokenizer: load_tokenizer(args.tokenizer)} if args.tokenizer else {}
    mined = import_release(*args.release[:2]) if args.release else _mine(args)
    save_words(args.out, mined)
    Parts.beside(args.out, "").remove()
    print(text_report(mined, tokenizers=tokenizers, top_k=args.top_k))
    if args.picture:
        draw_words(mined, args.picture, top_k=args.top_k)
    print(f"{args.out}: {len(mined.words):,} words of {mined.captions:,} captions ({mined.distinct_captions:,} distinct)")


def _mine(args: argparse.Namespace) -> MinedWords:
    files = [training_file(args.data)] if args.data else [Path(name) for name in args.captions]
    captions = iterate_training_texts(args.data, captions_only=True) if args.data else iterate_captions(files)
    abandon = [word.strip().lower() for word in args.abandon.split(",") if word.strip()]
    return mine_words(captions, jobs=args.jobs, abandon=abandon, parts=Parts.beside(args.out, describe_files(files)))


if __name__ == "__main__":
    run_cli(main)
