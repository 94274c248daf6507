"""Finds the significant words of a corpus: verbs, nouns and adjectives with their counts and lemmas.

python tools/mine_significant_words.py --data DATASET_DIR --out words.json
python tools/mine_significant_words.py --captions a.jsonl b.txt --out words.json --jobs 8 --tokenizer
vocab.txt
"""

from __future__ import annotations

import argparse
from itertools import zip_longest

from snp_jax.data.corpus_files import read_captions, read_training_texts
from snp_jax.data.text import load_tokenizer
from snp_jax.data.words import DEFAULT_ABANDON, DEFAULT_TOP_K, MinedWords, build_word_tables, save_words
from snp_jax.data.words_mining import mine_words
from snp_jax.errors import run_cli

SHOWN = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="folder dataset: the captions of its train.jsonl")
    source.add_argument("--captions", nargs="+", help=".txt (a caption a line) or .jsonl files")
    parser.add_argument("--out", required=True, help="the words.json to write")
    parser.add_argument("--jobs", type=int, help="processes (default: all cores; no influence on the result)")
    parser.add_argument(
        "--abandon",
        default=",".join(DEFAULT_ABANDON),
        help="words that are never significant, comma-separated (default: %(default)s; for WebVid the paper "
        "adds background,backgrounds)",
    )
    parser.add_argument("--tokenizer", help="also report how many words are significant for this tokeniser")
    parser.add_argument("--top-k", type=int, default=DEFAULT_TOP_K, help="for that report (default: %(default)s)")
    args = parser.parse_args()

    captions = read_training_texts(args.data, captions_only=True) if args.data else read_captions(args.captions)
    abandon = [word.strip().lower() for word in args.abandon.split(",") if word.strip()]
    # Read before the long part, so that a wrong path fails at once.
    tokenizer = load_tokenizer(args.tokenizer) if args.tokenizer else None
    mined = mine_words(captions, jobs=args.jobs, abandon=abandon)
    save_words(args.out, mined)
    print(_top_words(mined))
    corpus = f"{mined.captions:,} captions ({mined.distinct_captions:,} distinct)"
    print(f"{args.out}: {len(mined.words):,} words of {corpus}")
    if tokenizer is not None:
        significant = len(build_word_tables(mined, tokenizer, args.top_k).significant_ids)
        print(f"{args.tokenizer}: {significant:,} of {tokenizer.vocab_size:,} entries are significant")


def _top_words(mined: MinedWords) -> str:
    """The most frequent words of each part of speech, one column each."""
    columns = []
    for tag in ("verb", "noun", "adj"):
        counts = {word: getattr(entry, tag) for word, entry in mined.words.items() if word not in mined.abandon}
        top = sorted((word for word in counts if counts[word]), key=lambda word: (-counts[word], word))[:SHOWN]
        columns.append([tag, *(f"{word} {counts[word]:,}" for word in top)])
    rows = zip_longest(*columns, fillvalue="")
    return "\n".join("".join(f"{cell:<26}" for cell in row).rstrip() for row in rows)


if __name__ == "__main__":
    run_cli(main)
