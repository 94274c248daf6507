"""Significant words: the mined counts (words.json) and their tables for one tokeniser (method.md section 4).

Counts are made by `words_mining`, which needs spaCy; this module needs NumPy alone. Masking and word choice,
which use the tables on the device, live in objectives.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from snp_jax.data.corpus_files import write_atomically
from snp_jax.data.text import Tokenizer
from snp_jax.errors import UserError

DEFAULT_ABANDON = ("be", "is", "was", "were", "are")
DEFAULT_TOP_K = 3000
MIN_SHARE = 0.25  # a part of speech below this share of a word's count is taken for the tagger's error
MAX_SAME_LEMMA = 16  # bounds WordTables.lemma_ids; English verbs have at most 8 forms
_FORMAT = "snp_jax.words/1"


@dataclass(frozen=True)
class WordCounts:
    """How often a word was tagged as each part of speech. `num` is counted but makes no word significant.

    `other` counts towards the total without a known part of speech (tables of the authors' release leave small shares out).
    """

    TAGS: ClassVar[tuple[str, ...]] = ("VERB", "NOUN", "ADJ", "NUM")

    verb: int
    noun: int
    adj: int
    num: int
    lemma: str
    other: int = 0

    @property
    def total(self) -> int:
        return self.verb + self.noun + self.adj + self.other


@dataclass(frozen=True)
class MinedWords:
    """The content of words.json; knows nothing of tokenisers.

    Attributes: words (lower-case word -> counts, most frequent first), captions and distinct_captions (how
    many were read), tagger (model and version), abandon (words that must not become significant).
    """

    words: dict[str, WordCounts]
    captions: int
    distinct_captions: int
    tagger: str
    abandon: tuple[str, ...]


@dataclass(frozen=True)
class RankedWords:
    """The mined words that are whole entries of a vocabulary, most frequent first. W words.

    Attributes: words (W strings), ids int32 [W], totals int64 [W] (verb + noun + adj + other), ranks int32 [W] (0 =
    most frequent; equal totals share the better rank), shares float32 [W, 3] (verb, noun, adj; sums to 1, or
    0 where the total is 0).
    """

    words: tuple[str, ...]
    ids: np.ndarray
    totals: np.ndarray
    ranks: np.ndarray
    shares: np.ndarray


@dataclass(frozen=True)
class WordTables:
    """What the training step looks up. V vocabulary entries, S significant ones, M <= MAX_SAME_LEMMA.

    Attributes: significant bool [V]; significant_ids int32 [S], ascending; lemma_ids int32 [V, M], for each
    id the ids of the same lemma, itself included and first, padded with -1; lemma_count int32 [V] (>= 1), how
    many they are.
    """

    significant: np.ndarray
    significant_ids: np.ndarray
    lemma_ids: np.ndarray
    lemma_count: np.ndarray


def save_words(path: str | Path, mined: MinedWords) -> None:
    """Writes words.json, one word a line, replacing the file in one step."""
    head = {
        "format": _FORMAT,
        "tagger": mined.tagger,
        "captions": mined.captions,
        "distinct_captions": mined.distinct_captions,
        "abandon": mined.abandon,
    }
    lines = [f"{json.dumps(word)}: {json.dumps(asdict(counts))}" for word, counts in mined.words.items()]
    text = json.dumps(head)[:-1] + ', "words": {\n' + ",\n".join(lines) + "\n}}\n"
    write_atomically(path, text.encode())


def load_words(path: str | Path) -> MinedWords:
    """Reads words.json.

    Raises:
      UserError: no such file, or not a file of this kind.
    """
    again = "make one with tools/mine_significant_words.py"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the significant words ({error.strerror}); {again}") from error
    except ValueError as error:
        raise UserError(f"{path}: not a words.json file ({error}); {again}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(f'{path}: not a words.json file (no "format": "{_FORMAT}"); {again}')
    try:
        return MinedWords(
            words={word: WordCounts(**counts) for word, counts in content["words"].items()},
            captions=content["captions"],
            distinct_captions=content["distinct_captions"],
            tagger=content["tagger"],
            abandon=tuple(content["abandon"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: a damaged words.json file ({error}); {again}") from error


def rank_words(mined: MinedWords, tokenizer: Tokenizer) -> RankedWords:
    """Ranks the words that are whole vocabulary entries, longer than one character and not abandoned.

    Spellings that the tokeniser takes for one word (BERT drops accents) are counted together.
    """
    counts: dict[int, np.ndarray] = {}
    for word, entry in mined.words.items():
        token_id = tokenizer.word_id(word)
        if token_id is None or len(word) < 2 or word in mined.abandon:
            continue
        counts[token_id] = counts.get(token_id, 0) + np.array([entry.verb, entry.noun, entry.adj, entry.other], np.int64)
    ids = sorted(counts, key=lambda token_id: (-counts[token_id].sum(), token_id))
    table = np.array([counts[token_id] for token_id in ids], np.int64).reshape(len(ids), 4)
    totals = table.sum(axis=1)
    # Totals descend, so the first position of an equal total is the number of words with a larger one.
    ranks = np.searchsorted(-totals, -totals, side="left")
    return RankedWords(
        words=tuple(tokenizer.whole_word(token_id) for token_id in ids),
        ids=np.array(ids, np.int32),
        totals=totals,
        ranks=ranks.astype(np.int32),
        shares=_cleaned_shares(table),
    )


def build_word_tables(mined: MinedWords, tokenizer: Tokenizer, top_k: int = DEFAULT_TOP_K) -> WordTables:
    """Tables of one tokeniser: the words of rank below `top_k` with a positive count are significant.

    Words that share the last rank are all in, so the result does not depend on the order of the vocabulary.

    Raises:
      UserError: no mined word is a whole vocabulary entry.
    """
    ranked = rank_words(mined, tokenizer)
    chosen = ranked.ids[(ranked.ranks < top_k) & (ranked.totals > 0)]
    if not len(chosen):
        raise UserError(
            "none of the mined words is a whole entry of the tokeniser's vocabulary; mine words from the "
            "training captions, or train a tokeniser with a larger --vocab-size"
        )
    groups = []
    for words in lemma_lists(mined).values():
        ids = [tokenizer.word_id(word) for word in words]
        groups.append(list(dict.fromkeys(token_id for token_id in ids if token_id is not None)))
    return _tables(tokenizer.vocab_size, chosen, groups)


def lemma_lists(mined: MinedWords) -> dict[str, list[str]]:
    """Lemma -> the mined words that have it, most frequent first."""
    lists: dict[str, list[str]] = {}
    for word, entry in mined.words.items():
        lists.setdefault(entry.lemma, []).append(word)
    return lists


def _cleaned_shares(table: np.ndarray) -> np.ndarray:
    """[W, 4] counts (verb, noun, adj, other) -> float32 [W, 3]: those below MIN_SHARE are zeroed, the rest sums to 1."""
    shares = table[:, :3] / np.maximum(table.sum(axis=1, keepdims=True), 1)
    shares = np.where(shares < MIN_SHARE, 0.0, shares)
    return (shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _tables(vocab_size: int, significant_ids: np.ndarray, groups: Sequence[Sequence[int]]) -> WordTables:
    significant = np.zeros(vocab_size, bool)
    significant[significant_ids] = True
    same = {token_id: [token_id] for token_id in range(vocab_size)}
    for group in groups:
        for token_id in group:
            others = (i for i in group if i != token_id and i not in same[token_id])
            same[token_id] = [*same[token_id], *others][:MAX_SAME_LEMMA]
    lemma_count = np.array([len(ids) for ids in same.values()], np.int32)
    lemma_ids = np.full((vocab_size, lemma_count.max()), -1, np.int32)
    for token_id, ids in same.items():
        lemma_ids[token_id, : len(ids)] = ids
    return WordTables(significant, np.flatnonzero(significant).astype(np.int32), lemma_ids, lemma_count)
