"""Trains a tokeniser from captions.

python tools/train_tokenizer.py --data DATASET_DIR --vocab-size 2000 --out spm.model
python tools/train_tokenizer.py --captions a.jsonl b.txt --vocab-size 8000 --kind wordpiece --out
vocab.txt
"""

from __future__ import annotations

import argparse

from snp_jax.data.corpus_files import read_captions, read_training_texts, write_atomically
from snp_jax.data.text import load_tokenizer
from snp_jax.data.text_training import train_sentencepiece, train_wordpiece
from snp_jax.errors import UserError, run_cli

TRAINERS = {"sentencepiece": (train_sentencepiece, ".model"), "wordpiece": (train_wordpiece, ".txt")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="a folder dataset or a prepared one: captions, questions, options of its train split")
    source.add_argument("--captions", nargs="+", help=".txt (a caption a line) or .jsonl files")
    parser.add_argument("--vocab-size", type=int, required=True, help="upper limit; a small corpus gives fewer pieces")
    parser.add_argument("--kind", choices=sorted(TRAINERS), default="sentencepiece")
    parser.add_argument("--out", required=True, help="FILE.model for sentencepiece, FILE.txt for wordpiece")
    args = parser.parse_args()

    train, suffix = TRAINERS[args.kind]
    if not args.out.endswith(suffix):
        raise UserError(f"--out {args.out}: a {args.kind} tokeniser is written to a {suffix} file")
    texts = read_training_texts(args.data) if args.data else read_captions(args.captions)
    write_atomically(args.out, train(texts, args.vocab_size))
    print(f"{args.out}: {args.kind}, {load_tokenizer(args.out).vocab_size} pieces from {len(texts):,} texts")


if __name__ == "__main__":
    run_cli(main)
