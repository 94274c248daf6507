"""Significant words: counting with spaCy, and the tables made of the counts."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import spacy

from snp_jax.data import words_mining
from snp_jax.data.text import SPECIAL_PIECES, SentencePieceTokenizer, WordPieceTokenizer
from snp_jax.data.text_training import train_sentencepiece
from snp_jax.data.words import (
    MinedWords,
    WordCounts,
    build_word_tables,
    load_words,
    rank_words,
    save_words,
)
from snp_jax.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
CAPTIONS = [
    "A man is running with two dogs",
    "a man  is running with two dogs",
    "the dog runs on the green grass",
    "a woman plays the guitar",
    "two women are playing a guitar on the green grass",
]


def mined(words: dict[str, WordCounts], abandon=("is",)) -> MinedWords:
    return MinedWords(words, captions=10, distinct_captions=9, tagger="none", abandon=abandon)


def counts(verb=0, noun=0, adj=0, num=0, lemma="") -> WordCounts:
    return WordCounts(verb, noun, adj, num, lemma)


PIECES = [
    *SPECIAL_PIECES,
    "dog",
    "dogs",
    "run",
    "runs",
    "running",
    "red",
    "is",
    "x",
    "two",
    "##dog",
    "the",
    "cafe",
]
WORDS = {
    "dog": counts(noun=50, lemma="dog"),
    "is": counts(verb=40, lemma="be"),  # abandoned
    "x": counts(noun=30, lemma="x"),  # one character
    "running": counts(verb=20, noun=2, lemma="run"),
    "red": counts(adj=20, noun=2, lemma="red"),
    "zebra": counts(noun=15, lemma="zebra"),  # not in the vocabulary
    "runs": counts(verb=9, lemma="run"),
    "cafe": counts(noun=2, lemma="cafe"),
    "café": counts(noun=3, lemma="café"),  # the same entry for BERT
    "dogs": counts(noun=4, lemma="dog"),
    "two": counts(num=70, lemma="two"),  # numbers alone make no word significant
}


@pytest.fixture(scope="module")
def tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer(PIECES)


def test_mining_counts_parts_of_speech_and_lemmas():
    result = words_mining.mine_words(CAPTIONS, jobs=1, progress=False)
    assert (result.captions, result.distinct_captions) == (5, 4)  # the first two are one text, counted twice
    assert result.words["man"] == counts(noun=2, lemma="man")
    assert result.words["running"] == counts(verb=2, lemma="run")
    assert result.words["runs"] == counts(verb=1, lemma="run")
    assert result.words["dogs"] == counts(noun=2, lemma="dog")
    assert result.words["women"].lemma == "woman"
    assert result.words["green"] == counts(adj=2, lemma="green")
    assert result.words["two"] == counts(num=3, lemma="two")
    assert not {"the", "with", "on", "a"} & set(result.words)
    totals = [entry.total for entry in result.words.values()]
    assert totals == sorted(totals, reverse=True)


def test_mining_agrees_with_the_complete_pipeline():
    captions = [
        *CAPTIONS,
        "an orange moon first moves left, then it is turning around itself",
        "he has to do 2 things",
    ]
    nlp = spacy.load(words_mining.MODEL, exclude=["parser", "ner"])
    expected = Counter(
        (token.text, token.pos_)
        for doc in nlp.pipe(caption.lower() for caption in captions)
        for token in doc
        if token.pos_ in WordCounts.TAGS
    )
    found = words_mining.mine_words([" ".join(c.split()) for c in captions], jobs=1, progress=False).words
    assert {
        (word, tag): getattr(entry, tag.lower())
        for word, entry in found.items()
        for tag in WordCounts.TAGS
        if getattr(entry, tag.lower())
    } == {key: count for key, count in expected.items() if not key[0].isspace()}


def test_mining_nothing_is_an_error():
    with pytest.raises(UserError, match="no captions"):
        words_mining.mine_words(["  "], progress=False)


def test_missing_spacy_model_is_one_sentence(monkeypatch):
    monkeypatch.setattr(words_mining, "MODEL", "no_such_model")
    with pytest.raises(UserError, match="no_such_model.*install requirements.txt"):
        words_mining.mine_words(CAPTIONS, progress=False)


def test_training_code_does_not_load_spacy():
    code = "import sys, snp_jax.data.words, snp_jax.data.text; sys.exit('spacy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_ranking_by_hand(tokenizer):
    ranked = rank_words(mined(WORDS), tokenizer)
    assert ranked.words == ("dog", "running", "red", "runs", "cafe", "dogs", "two")
    assert ranked.totals.tolist() == [50, 22, 22, 9, 5, 4, 0]
    assert ranked.ranks.tolist() == [
        0,
        1,
        1,
        3,
        4,
        5,
        6,
    ]  # equal totals share a rank, the next one is skipped
    assert [PIECES[i] for i in ranked.ids] == list(ranked.words)


def test_small_shares_are_the_taggers_errors(tokenizer):
    entry = {
        "dog": counts(verb=1, noun=2, adj=1, lemma="dog"),  # 0.25 stays
        "run": counts(verb=70, noun=6, adj=24, lemma="run"),  # noun and adj are below 0.25
        "red": counts(verb=10, noun=40, adj=50, lemma="red"),
        "two": counts(num=5, lemma="two"),
    }
    ranked = rank_words(mined(entry), tokenizer)
    shares = dict(zip(ranked.words, ranked.shares.tolist(), strict=True))
    assert shares["dog"] == [0.25, 0.5, 0.25]
    assert shares["run"] == [1, 0, 0]
    assert shares["red"] == pytest.approx([0, 40 / 90, 50 / 90])
    assert shares["two"] == [0, 0, 0]
    assert ranked.totals.tolist() == [
        100,
        100,
        4,
        0,
    ]  # the total counts everything, before shares are cleaned


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (1, {"dog"}),
        (2, {"dog", "running", "red"}),  # a tie at the limit is in as a whole
        (4, {"dog", "running", "red", "runs"}),
        (3000, {"dog", "running", "red", "runs", "cafe", "dogs"}),  # never "two": its count is zero
    ],
)
def test_significant_words(tokenizer, top_k, expected):
    tables = build_word_tables(mined(WORDS), tokenizer, top_k)
    assert {PIECES[i] for i in tables.significant_ids} == expected
    np.testing.assert_array_equal(np.flatnonzero(tables.significant), tables.significant_ids)
    assert tables.significant.shape == (len(PIECES),) and tables.significant.dtype == bool
    assert tables.significant_ids.dtype == np.int32
    assert not tables.significant[list(tokenizer.special_ids)].any()


def test_lemma_lists(tokenizer):
    tables = build_word_tables(mined(WORDS), tokenizer)
    lists = {PIECES[i]: [PIECES[j] for j in tables.lemma_ids[i] if j >= 0] for i in range(len(PIECES))}
    assert lists["dog"] == ["dog", "dogs"] and lists["dogs"] == ["dogs", "dog"]
    assert lists["running"] == ["running", "runs"] and lists["runs"] == ["runs", "running"]
    assert lists["run"] == ["run"]  # never seen in the corpus, so nothing is known about it
    assert lists["red"] == ["red"] and lists["[MASK]"] == ["[MASK]"]
    assert lists["cafe"] == ["cafe"]
    np.testing.assert_array_equal(tables.lemma_count, [len(lists[piece]) for piece in PIECES])
    np.testing.assert_array_equal(tables.lemma_ids[:, 0], np.arange(len(PIECES)))
    assert tables.lemma_ids.dtype == np.int32 and tables.lemma_count.dtype == np.int32


def test_tables_of_another_tokeniser_kind():
    result = words_mining.mine_words(CAPTIONS, jobs=1, progress=False)
    tokenizer = SentencePieceTokenizer(train_sentencepiece(CAPTIONS * 20, 400))
    tables = build_word_tables(result, tokenizer)
    significant = {tokenizer.whole_word(i) for i in tables.significant_ids}
    assert {"guitar", "green", "grass"} <= significant
    assert not {"is", "are", "the", "two"} & significant


def test_words_foreign_to_the_vocabulary_are_an_error(tokenizer):
    with pytest.raises(UserError, match="none of the mined words"):
        build_word_tables(mined({"zebra": counts(noun=3, lemma="zebra")}), tokenizer)


def test_words_file_round_trip(tmp_path):
    save_words(tmp_path / "words.json", mined(WORDS))
    again = load_words(tmp_path / "words.json")
    assert again == mined(WORDS) and list(again.words) == list(WORDS)
    assert (tmp_path / "words.json").read_text().count("\n") > len(WORDS)  # a word a line: it can be read and compared


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("{", "not a words.json"),
        ("[]", "not a words.json"),
        ('{"words": {}}', "not a words.json"),
        ('{"format": "snp_jax.words/1", "words": {"dog": {"verb": 1}}}', "damaged"),
    ],
)
def test_bad_words_files_are_named(tmp_path, content, message):
    path = tmp_path / "words.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        load_words(path)
    assert str(path) in str(raised.value) and "mine_significant_words" in str(raised.value)


def test_mining_tool(tmp_path):
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_PIECES, "guitar", "grass", "the"]))
    command = [sys.executable, "tools/mine_significant_words.py", "--captions", tmp_path / "captions.txt"]
    command += [
        "--out",
        tmp_path / "words.json",
        "--tokenizer",
        tmp_path / "vocab.txt",
        "--abandon",
        "grass,is",
    ]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5 captions (4 distinct)" in done.stdout
    assert "1 of 8 entries are significant" in done.stdout
    assert load_words(tmp_path / "words.json").abandon == ("grass", "is")
    assert not (tmp_path / "words.json.parts").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--jobs", "-1"], "--jobs must be at least 1, found -1"),
        (["--picture", "w.bmp"], "--picture must end in .png, .svg, .pdf"),
    ],
)
def test_mining_tool_refuses_before_it_mines(tmp_path, arguments, message):
    command = [
        sys.executable,
        "tools/mine_significant_words.py",
        "--data",
        tmp_path,
        "--out",
        tmp_path / "words.json",
        *arguments,
    ]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr
