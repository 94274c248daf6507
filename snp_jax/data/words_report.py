"""What a table of significant words holds, for people: a text and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import matplotlib.figure
import numpy as np

from snp_jax.data.text import Tokenizer
from snp_jax.data.words import MinedWords, build_word_tables, lemma_lists

PARTS = {"verb": "verbs", "noun": "nouns", "adj": "adjectives"}
_COLOURS = {"verb": "#c44e52", "noun": "#4c72b0", "adj": "#55a868"}
_COLUMN = 26
PICTURE_SUFFIXES = (".png", ".svg", ".pdf")
_SHOWN_LISTS = 10


def top_words(mined: MinedWords, count: int) -> dict[str, list[tuple[str, int]]]:
    """For each of `PARTS` the most frequent words with their counts under it; abandoned ones are left out."""
    found = {}
    for part in PARTS:
        counts = {word: getattr(entry, part) for word, entry in mined.words.items() if word not in mined.abandon}
        top = sorted((word for word in counts if counts[word]), key=lambda word: (-counts[word], word))
        found[part] = [(word, counts[word]) for word in top[:count]]
    return found


def text_report(mined: MinedWords, *, count: int = 15, tokenizers: Mapping[str, Tokenizer] | None = None, top_k: int) -> str:
    """The most frequent words by part of speech in columns, the longest lemma lists, and what is significant.

    Args:
        count: words a column.
        tokenizers: by name; for each, how many of its entries are significant with `top_k`.
    """
    columns = [[PARTS[part], *(f"{word} {n:,}" for word, n in words)] for part, words in top_words(mined, count).items()]
    rows = zip_longest(*columns, fillvalue="")
    lines = ["".join(f"{cell:<{_COLUMN}}" for cell in row).rstrip() for row in rows]
    lists = sorted((words for words in lemma_lists(mined).values() if len(words) > 1), key=lambda words: (-len(words), words))
    lines += ["", f"{len(lists):,} lemmas with several words, such as"]
    lines += [f"  {', '.join(words)}" for words in lists[:_SHOWN_LISTS]]
    totals = np.array([entry.total for entry in mined.words.values()], np.int64)
    if totals.sum():
        share = np.sort(totals)[::-1][:top_k].sum() / totals.sum()
        lines += ["", f"the {top_k:,} most frequent of {len(totals):,} words make {share:.1%} of what was counted"]
    for name, tokenizer in (tokenizers or {}).items():
        significant = len(build_word_tables(mined, tokenizer, top_k).significant_ids)
        lines.append(f"{name}: {significant:,} of {tokenizer.vocab_size:,} entries are significant")
    return "\n".join(lines)


def draw_words(mined: MinedWords, path: str | Path, *, count: int = 20, top_k: int) -> None:
    """Draws the most frequent words of each part of speech, and all counts by rank. `path` has one of `PICTURE_SUFFIXES`."""
    figure = matplotlib.figure.Figure(figsize=(13, 8.5), layout="constrained")
    grid = figure.add_gridspec(2, len(PARTS), height_ratios=(3, 1.6))
    for column, (part, words) in enumerate(top_words(mined, count).items()):
        axes = figure.add_subplot(grid[0, column])
        names = [word for word, _ in words]
        axes.barh(range(len(words)), [n for _, n in words], color=_COLOURS[part])
        axes.set_yticks(range(len(words)), names)
        axes.invert_yaxis()
        axes.set_title(PARTS[part])
        axes.set_xlabel("occurrences")
        axes.spines[["top", "right"]].set_visible(False)
    axes = figure.add_subplot(grid[1, :])
    for part in PARTS:
        counts = np.sort([getattr(entry, part) for word, entry in mined.words.items() if word not in mined.abandon])[::-1]
        counts = counts[counts > 0]
        axes.loglog(np.arange(1, len(counts) + 1), counts, color=_COLOURS[part], label=f"{len(counts):,} {PARTS[part]}")
    totals = np.sort([entry.total for word, entry in mined.words.items() if word not in mined.abandon])[::-1]
    totals = totals[totals > 0]
    axes.loglog(np.arange(1, len(totals) + 1), totals, color="black", linewidth=1, label=f"{len(totals):,} words in all")
    if len(totals) > top_k:
        axes.axvline(top_k, color="grey", linestyle=":", label=f"rank {top_k:,}")
    axes.set_xlabel("rank")
    axes.set_ylabel("occurrences")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    captions = f"{mined.captions:,} captions" if mined.captions else mined.tagger
    figure.suptitle(f"Most frequent words by part of speech ({captions})")
    figure.savefig(path, dpi=110)
