"""Stand-ins for the text files that a config names, where they are absent: programs are compiled for their sizes alone."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from snp_jax.data.text import Tokenizer, load_tokenizer
from snp_jax.data.words import MinedWords, WordCounts, save_words

BERT_WORDS = 30_522
UNUSED = 994  # pieces of BERT's vocabulary that no text produces
FIRST = ("[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def with_text_files(config: ConfigDict, folder: Path) -> Tokenizer:
    """Points `config.text` at stand-ins in `folder` for what does not exist, and loads the tokeniser.

    The vocabulary is as large as BERT's; the significant words are `config.text.top_k` of it.
    """
    text = config.text
    if not text.tokenizer or not Path(text.tokenizer).is_file():
        reserved = [f"[unused{i}]" for i in range(99, UNUSED)]
        words = [f"word{_letters(i)}" for i in range(BERT_WORDS - len(FIRST) - len(reserved))]
        file = folder / "vocab.txt"
        file.write_text("\n".join([*FIRST, *reserved, *words]) + "\n")
        text.tokenizer = str(file)
    tokenizer = load_tokenizer(Path(text.tokenizer))
    if config.task in ("tagging", "pretrain") and (not text.words or not Path(text.words).is_file()):
        names = [word for i in range(tokenizer.vocab_size) if (word := tokenizer.whole_word(i)) and len(word) > 1]
        counts = {word: WordCounts(0, len(names) - i, 0, 0, word) for i, word in enumerate(names[: text.top_k])}
        save_words(folder / "words.json", MinedWords(counts, len(names), len(names), "stand-in", ()))
        text.words = str(folder / "words.json")
    return tokenizer


def _letters(number: int) -> str:
    """A number as a word of its own."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))
