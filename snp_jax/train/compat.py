"""Where this project computes on purpose what the authors' release computes by accident: one switch for each such place.

Everything is off by default. `configs/common.py` has the keys, and `antmmf(config)` turns all of them on; `docs/training.md`
says what each does. The computation itself is a small function beside the one it replaces; those on word tables are here.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from snp_jax.data.text import Tokenizer
from snp_jax.data.words import RankedWords, WordTables


@dataclasses.dataclass(frozen=True)
class Compat:
    """Switches of `config.compat`; True = as the release does it (numbers: method.md section 7).

    Attributes:
        raw_text_words: L1 reads the un-masked caption, with the labels of the cross branch's masking (1).
        separate_windows: of a long caption, what is masked and what is read raw are two windows, drawn separately (2).
        mssm_fallback: MSSM with too few significant tokens masks wrong positions and labels them [MASK] (3).
        first_letter: MSSM's random word is its first letter where no other word shares its lemma (4).
        uncounted_words: rank top_k is in too, and with fewer counted words than that every token is significant (5).
        separate_lvwm_pass: LVWM reads the caption, restored from the masked one, in a text pass of its own (7).
        corner_mask: only what lies below AND to the right of a picture counts as padding (10).
        order_over_batch: FOM takes N consecutive pairs of the batch for the clips of one video (12).
        nan_when_empty: MLM and FOM are NaN in a batch without targets (12, 13).
        raw_itm_negatives: the wrong captions of ITM are not masked (14).
        exclusive_segments: the last frame of a segment is never drawn; middles are the earlier of two frames (15).
        listed_ties: in-batch recall counts every column that ties with the right one as a query of its own (17).
        mined_matrix: mined negatives form one matrix per local group that lists the positive twice (18).
        decay_by_name: weight decay spares biases and BERT's LayerNorms alone (21).
        clamped_queue: a MoCo queue overwrites its newest entries when a batch would pass its end.
    """

    raw_text_words: bool = False
    separate_windows: bool = False
    mssm_fallback: bool = False
    first_letter: bool = False
    uncounted_words: bool = False
    separate_lvwm_pass: bool = False
    corner_mask: bool = False
    order_over_batch: bool = False
    nan_when_empty: bool = False
    raw_itm_negatives: bool = False
    exclusive_segments: bool = False
    listed_ties: bool = False
    mined_matrix: bool = False
    decay_by_name: bool = False
    clamped_queue: bool = False


def with_first_letters(tables: WordTables, tokenizer: Tokenizer) -> WordTables:
    """Word tables in which a word that shares its lemma with no other is replaced by its first letter."""
    lemma_ids = tables.lemma_ids.copy()
    for token_id in np.flatnonzero(tables.lemma_count == 1):
        word = tokenizer.whole_word(int(token_id))
        if word is not None:
            lemma_ids[token_id, 0] = tokenizer.token_ids(word[0])[0]
    return dataclasses.replace(tables, lemma_ids=lemma_ids)


def with_uncounted_words(tables: WordTables, ranked: RankedWords, top_k: int) -> WordTables:
    """Word tables in which rank `top_k` is significant too, and all entries without a count share one rank."""
    counted = ranked.totals > 0
    ranks = np.full(tables.significant.shape, counted.sum())
    ranks[ranked.ids[counted]] = ranked.ranks[counted]
    significant = ranks <= top_k
    return dataclasses.replace(tables, significant=significant, significant_ids=np.flatnonzero(significant).astype(np.int32))
