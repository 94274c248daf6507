"""The significant-word table and the lemma lists of the authors' release, read as `MinedWords`.

The table is one JSON object of columns with an entry for every id of BERT's vocabulary: `name`, `total_count`, `verb_count`,
`noun_count`, `adj_count` and columns that follow from these. Counts of small shares are zero there but stay in the total. The
lemma lists are a JSON list with, for each id, the vocabulary words that share its lemma, or none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snp_jax.data.words import DEFAULT_ABANDON, MinedWords, WordCounts
from snp_jax.errors import UserError

_COLUMNS = ("name", "total_count", "verb_count", "noun_count", "adj_count")


def import_release(counts_file: str | Path, lemmas_file: str | Path | None = None) -> MinedWords:
    """Reads the release's table; without lemma lists every word is its own lemma.

    Words that were never counted and share no lemma are left out. How many captions were read is not recorded there: 0.

    Raises:
        UserError: a file that cannot be read or is of another kind, or lists that do not fit the table.
    """
    table = _read(counts_file)
    if not isinstance(table, dict) or any(not isinstance(table.get(name), list) for name in _COLUMNS):
        raise UserError(f"{counts_file}: not the release's word table; it needs the columns {', '.join(_COLUMNS)}")
    rows = list(zip(*(table[name] for name in _COLUMNS), strict=False))
    if len(rows) != max(len(table[name]) for name in _COLUMNS):
        raise UserError(f"{counts_file}: its columns have different lengths; the file is damaged")
    lemmas = {} if lemmas_file is None else _lemmas(lemmas_file, len(rows))
    words = {}
    for name, total, verb, noun, adj in rows:
        other = total - verb - noun - adj
        if min(verb, noun, adj, other) < 0:
            raise UserError(f'{counts_file}: the counts of "{name}" do not fit its total {total}; the file is damaged')
        if total or name in lemmas:
            words[name] = WordCounts(verb, noun, adj, 0, lemmas.get(name, name), other)
    ranked = dict(sorted(words.items(), key=lambda item: (-item[1].total, item[0])))
    return MinedWords(ranked, 0, 0, f"imported from {Path(counts_file).name}", DEFAULT_ABANDON)


def _lemmas(path: str | Path, length: int) -> dict[str, str]:
    """word -> what its list goes by: the shortest word of it."""
    lists: Sequence[Any] = _read(path)
    if not isinstance(lists, list) or not all(isinstance(words, list) for words in lists):
        raise UserError(f"{path}: not the release's lemma lists; it needs a list of lists of words")
    if len(lists) != length:
        raise UserError(f"{path}: has {len(lists)} lemma lists for {length} words of the table; use the pair of the release")
    return {word: min(words, key=lambda other: (len(other), other)) for words in lists for word in words}


def _read(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error})") from error
