"""The release's word table and lemma lists, and what people get to see of a table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from snp_jax.data.text import load_tokenizer
from snp_jax.data.words import MinedWords, WordCounts, build_word_tables, load_words, rank_words, save_words
from snp_jax.data.words_release import import_release
from snp_jax.data.words_report import draw_words, text_report, top_words
from snp_jax.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"
TABLE = {
    "id": [0, 1, 2, 3, 4],
    "name": ["[PAD]", "runs", "running", "dog", "be"],
    "total_count": [0, 24, 100, 50, 7],
    "verb_count": [0, 21, 100, 0, 7],
    "noun_count": [0, 0, 0, 50, 0],
    "adj_count": [0, 0, 0, 0, 0],
}
LEMMAS = [[], ["runs", "running"], ["running", "runs"], [], []]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "counts.json").write_text(json.dumps(TABLE))
    (tmp_path / "lemmas.json").write_text(json.dumps(LEMMAS))
    return tmp_path / "counts.json", tmp_path / "lemmas.json"


def test_an_imported_table(files, tmp_path):
    mined = import_release(*files)
    assert list(mined.words) == ["running", "dog", "runs", "be"]
    assert mined.words["runs"] == WordCounts(21, 0, 0, 0, "runs", other=3)
    assert mined.words["running"].lemma == "runs" and mined.words["dog"].lemma == "dog"
    save_words(tmp_path / "words.json", mined)
    assert load_words(tmp_path / "words.json") == mined
    assert {entry.lemma for entry in import_release(files[0]).words.values()} == set(import_release(files[0]).words)


def test_a_table_from_before_has_no_other_count(tmp_path):
    words = {"dog": {"verb": 1, "noun": 2, "adj": 0, "num": 0, "lemma": "dog"}}
    content = {"format": "snp_jax.words/1", "tagger": "t", "captions": 1, "distinct_captions": 1, "abandon": [], "words": words}
    (tmp_path / "words.json").write_text(json.dumps(content))
    assert load_words(tmp_path / "words.json").words["dog"] == WordCounts(1, 2, 0, 0, "dog", other=0)


@pytest.mark.parametrize(
    ("table", "lemmas", "message"),
    [
        ({"name": []}, LEMMAS, "not the release's word table"),
        ([], LEMMAS, "not the release's word table"),
        ({**TABLE, "verb_count": [0]}, LEMMAS, "columns have different lengths"),
        ({**TABLE, "total_count": [0, 3, 100, 50, 7]}, LEMMAS, 'the counts of "runs" do not fit its total 3'),
        (TABLE, LEMMAS[1:], "has 4 lemma lists for 5 words"),
        (TABLE, {"runs": ["run"]}, "not the release's lemma lists"),
    ],
)
def test_tables_that_are_none(table, lemmas, message, tmp_path):
    (tmp_path / "counts.json").write_text(json.dumps(table))
    (tmp_path / "lemmas.json").write_text(json.dumps(lemmas))
    with pytest.raises(UserError, match=message):
        import_release(tmp_path / "counts.json", tmp_path / "lemmas.json")
    with pytest.raises(UserError, match="nothing.json: cannot be read"):
        import_release(tmp_path / "nothing.json")


def test_the_release_s_own_files():
    """Ranks and shares that follow from the imported counts are those that the file states."""
    names = ("count_reprocess_webvid.json", "vocab_simi_list_new.json", "bert-base-uncased_30522_vocab.txt")
    if not (SHARED / names[0]).exists():
        pytest.skip(f"no {names[0]} in {SHARED}")
    counts, lemmas, vocabulary = (SHARED / name for name in names)
    mined, tokenizer, theirs = import_release(counts, lemmas), load_tokenizer(vocabulary), json.loads(counts.read_text())
    ranked = rank_words(mined, tokenizer)
    rank, total = np.array(theirs["rank"]), np.array(theirs["total_count"])
    counted = ranked.totals > 0
    np.testing.assert_array_equal(ranked.totals[counted], total[ranked.ids[counted]])
    # Theirs also ranks single letters and pieces of words, which cannot be significant here.
    assert (ranked.ranks[counted] <= rank[ranked.ids[counted]]).all()
    first = np.flatnonzero(counted)[:2000]
    np.testing.assert_allclose(ranked.ranks[first], rank[ranked.ids[first]], atol=0.02 * len(first))
    shares = np.stack([theirs[f"{part}_percentage"] for part in ("verb", "noun", "adj")], axis=1)
    np.testing.assert_allclose(ranked.shares[first], shares[ranked.ids[first]], atol=0.02)
    lists = json.loads(lemmas.read_text())
    tables = build_word_tables(mined, tokenizer)
    for token in np.flatnonzero([len(words) > 1 for words in lists])[::97]:
        mine = {tokenizer.whole_word(int(i)) for i in tables.lemma_ids[token] if i >= 0}
        assert mine == set(lists[token])


# ---------------------------------------------------------------------- reports
@pytest.fixture(scope="module")
def mined():
    words = {"run": (90, 2, 0, "run"), "running": (40, 1, 0, "run"), "dog": (0, 70, 0, "dog"), "red": (0, 3, 30, "red")}
    words |= {f"noun{i}": (0, 20 - i, 0, f"noun{i}") for i in range(15)} | {"is": (500, 0, 0, "be")}
    return MinedWords({w: WordCounts(v, n, a, 0, lemma) for w, (v, n, a, lemma) in words.items()}, 1234, 1200, "t", ("is",))


def test_the_top_words(mined):
    found = top_words(mined, 3)
    assert found == {
        "verb": [("run", 90), ("running", 40)],
        "noun": [("dog", 70), ("noun0", 20), ("noun1", 19)],
        "adj": [("red", 30)],
    }


def test_the_text(mined):
    lines = text_report(mined, count=2, top_k=3).splitlines()
    assert lines[0].split() == ["verbs", "nouns", "adjectives"]
    assert lines[1].split() == ["run", "90", "dog", "70", "red", "30"]
    assert "1 lemmas with several words, such as" in lines and "  run, running" in lines
    assert lines[-1].startswith("the 3 most frequent of 20 words make")


def test_the_picture(mined, tmp_path):
    for suffix in ("png", "svg"):
        draw_words(mined, tmp_path / f"words.{suffix}", top_k=5)
    with Image.open(tmp_path / "words.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(pixels) > 500_000 and len(np.unique(pixels, axis=0)) > 10
    assert "noun3" in (tmp_path / "words.svg").read_text() or "<path" in (tmp_path / "words.svg").read_text()


def test_the_tool_imports_and_draws(files, tmp_path):
    command = [sys.executable, "tools/mine_significant_words.py", "--release", *files, "--out", tmp_path / "words.json"]
    command += ["--picture", tmp_path / "words.png"]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    done = subprocess.run(list(map(str, command)), cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert load_words(tmp_path / "words.json") == import_release(*files)
    assert (tmp_path / "words.png").stat().st_size > 10_000 and "running 100" in done.stdout
