"""Tokenisers: what they do to real text, what they promise to the pipeline, and how they are trained."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from snp_jax.data.corpus_files import read_captions, read_training_texts, training_file, write_atomically
from snp_jax.data.text import SPECIAL_PIECES, SentencePieceTokenizer, WordPieceTokenizer, load_tokenizer
from snp_jax.data.text_training import train_sentencepiece, train_wordpiece
from snp_jax.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
PIECES = [*SPECIAL_PIECES, "[unused0]", "a", "red", "ball", "##oon", "cafe", ",", "un", "##seen", "2"]
CORPUS = [f"the {size} red circle moves {way}" for size in ("small", "large") for way in ("left", "right", "up")] * 5


@pytest.fixture(scope="module")
def wordpiece() -> WordPieceTokenizer:
    return WordPieceTokenizer(PIECES)


@pytest.fixture(scope="module")
def piece_model() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(train_sentencepiece(CORPUS, 200))


def test_wordpiece_reads_text_as_bert_uncased_does(wordpiece):
    # Lower case, accents dropped, punctuation apart, longest match first, a word with an unknown part wholly
    # unknown.
    tokens = [PIECES[i] for i in wordpiece.token_ids("A RED balloon, Café unseen redx [MASK]")]
    assert tokens == [
        "a",
        "red",
        "ball",
        "##oon",
        ",",
        "cafe",
        "un",
        "##seen",
        "[UNK]",
        "[UNK]",
        "[UNK]",
        "[UNK]",
    ]


def test_wordpiece_knows_whole_words(wordpiece):
    words = {PIECES[i]: wordpiece.whole_word(i) for i in range(len(PIECES))}
    whole = {piece for piece, word in words.items() if word is not None}
    assert whole == {"a", "red", "ball", "cafe", "un", "2"}
    assert wordpiece.word_id("Café") == PIECES.index("cafe")
    assert wordpiece.word_id("balloon") is None
    assert wordpiece.special_ids == frozenset(range(6))  # [unused0] is never produced by text, so never masked


def test_encode_adds_markers_and_padding(wordpiece):
    ids, mask = wordpiece.encode("a red balloon", 8)
    assert ids.dtype == np.int32 and mask.dtype == bool
    assert [PIECES[i] for i in ids] == ["[CLS]", "a", "red", "ball", "##oon", "[SEP]", "[PAD]", "[PAD]"]
    assert mask.tolist() == [True] * 6 + [False] * 2
    assert wordpiece.decode(ids) == "a red balloon"


def test_empty_text_is_two_markers(wordpiece, piece_model):
    for tokenizer in (wordpiece, piece_model):
        ids, mask = tokenizer.encode("  ", 4)
        assert ids.tolist() == [tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.pad_id]
        assert mask.tolist() == [True, True, False, False]


def test_text_of_exactly_the_room_is_not_cut(wordpiece):
    ids, mask = wordpiece.encode("a red ball", 5, np.random.default_rng(0))
    assert [PIECES[i] for i in ids] == ["[CLS]", "a", "red", "ball", "[SEP]"] and mask.all()


def test_long_text_takes_the_first_window_or_a_random_one(wordpiece):
    text = "a red ball cafe 2"
    first, _ = wordpiece.encode(text, 5)
    assert [PIECES[i] for i in first[1:-1]] == ["a", "red", "ball"]
    windows = {tuple(wordpiece.encode(text, 5, np.random.default_rng(seed))[0][1:-1]) for seed in range(40)}
    tokens = wordpiece.token_ids(text)
    assert windows == {tuple(tokens[i : i + 3]) for i in range(3)}  # every window, the last one included
    again = wordpiece.encode(text, 5, np.random.default_rng(3))[0]
    np.testing.assert_array_equal(again, wordpiece.encode(text, 5, np.random.default_rng(3))[0])


def test_encode_refuses_a_length_without_room(wordpiece):
    with pytest.raises(ValueError, match="at least 3"):
        wordpiece.encode("a", 2)


def test_sentencepiece_has_known_special_ids(piece_model):
    assert piece_model.pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (piece_model.pad_id, piece_model.unk_id, piece_model.cls_id) == (0, 1, 2)
    assert (piece_model.sep_id, piece_model.mask_id) == (3, 4)
    assert piece_model.special_ids == frozenset(range(5))


def test_sentencepiece_never_makes_special_tokens_of_text(piece_model):
    produced = set(piece_model.token_ids("a [MASK] red [CLS] circle [PAD]"))
    assert not produced & {piece_model.pad_id, piece_model.cls_id, piece_model.sep_id, piece_model.mask_id}


def test_sentencepiece_lowers_and_decodes(piece_model):
    ids, mask = piece_model.encode("The SMALL red  circle moves up", 32)
    assert piece_model.decode(ids) == "the small red circle moves up"
    assert mask.sum() == len(piece_model.token_ids("the small red circle moves up")) + 2
    masked = ids.copy()
    masked[1] = piece_model.mask_id
    assert "[MASK]" in piece_model.decode(masked)


def test_sentencepiece_whole_words(piece_model):
    circle = piece_model.pieces.index("\u2581circle")
    assert piece_model.whole_word(circle) == "circle"
    assert piece_model.word_id("Circle") == circle
    assert piece_model.word_id("ircle") is None
    assert piece_model.whole_word(piece_model.pieces.index("\u2581")) is None
    assert all(piece_model.whole_word(i) is None for i in piece_model.special_ids)


def test_pickle_keeps_everything(wordpiece, piece_model):
    for tokenizer in (wordpiece, piece_model):
        tokenizer.word_id("red")  # so that the cached parts exist
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy.pieces == tokenizer.pieces and copy.special_ids == tokenizer.special_ids
        assert copy.token_ids("the red circle") == tokenizer.token_ids("the red circle")
        assert copy.word_id("red") == tokenizer.word_id("red") is not None


@pytest.mark.parametrize("train", [train_sentencepiece, train_wordpiece])
def test_training_is_deterministic_and_survives_a_large_vocabulary(train):
    assert train(CORPUS, 60) == train(CORPUS, 60)
    assert train(CORPUS, 100_000) == train(iter(CORPUS), 100_000)


def test_wordpiece_training_is_the_same_in_another_process():
    # Hash seeds differ between processes; ids and ties between merges must not follow them.
    code = (
        "import sys; from snp_jax.data.text_training import train_wordpiece as t;sys.stdout.buffer.write(t(sys.argv[1:], 60))"
    )
    command = [sys.executable, "-c", code, *CORPUS]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout == train_wordpiece(CORPUS, 60)


def test_trained_wordpiece_has_the_corpus_words():
    tokenizer = WordPieceTokenizer(train_wordpiece(CORPUS, 500).decode().split("\n")[:-1])
    assert tokenizer.pieces[:5] == list(SPECIAL_PIECES)
    assert all(tokenizer.word_id(word) is not None for word in ("small", "circle", "moves", "left"))
    assert tokenizer.unk_id not in tokenizer.token_ids("the left circles")


def test_wordpiece_vocabulary_size_is_a_limit():
    assert len(train_wordpiece(CORPUS, 60).decode().split("\n")[:-1]) == 60
    with pytest.raises(UserError, match="--vocab-size 10 is too small"):
        train_wordpiece(CORPUS, 10)


@pytest.mark.parametrize("train", [train_sentencepiece, train_wordpiece])
def test_training_without_text_is_an_error(train):
    with pytest.raises(UserError, match="no text"):
        train(["", "  "], 100)


def test_load_tokenizer_by_suffix(tmp_path):
    (tmp_path / "vocab.txt").write_text("\r\n".join(PIECES) + "\r\n")
    assert load_tokenizer(tmp_path / "vocab.txt").pieces == PIECES
    (tmp_path / "spm.model").write_bytes(train_sentencepiece(CORPUS, 100))
    assert load_tokenizer(tmp_path / "spm.model").kind == "sentencepiece"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "cannot read the tokeniser"),
        ("vocab.json", b"{}", "is a .txt"),
        ("vocab.txt", b"a\nb\n", r"has no \[PAD\], \[UNK\]"),
        ("vocab.txt", b"\xff\xfe", "UTF-8"),
        ("spm.model", b"not a model", "not a SentencePiece model"),
        ("spm.model", b"", "not a SentencePiece model"),
    ],
)
def test_load_tokenizer_names_the_file_in_errors(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        load_tokenizer(tmp_path / name)
    assert name in str(raised.value)


def test_read_captions_of_both_kinds(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    (tmp_path / "b.jsonl").write_text('{"captions": ["x", "y"]}\n{"caption": "z"}\n"w"\n')
    assert read_captions([tmp_path / "a.txt", tmp_path / "b.jsonl"]) == ["one", "two", "x", "y", "z", "w"]


def test_read_captions_of_tables(tmp_path):
    """WebVid's table as it is, a table of one's own with a quoted line break, and CC3M's, whose quotes are text."""
    head = "videoid,contentUrl,duration,page_dir,name\r\n"
    (tmp_path / "webvid.csv").write_text(head + '1,u,PT00H00M15S,d,"A dog, running"\r\n\r\n2,u,PT00H00M15S,d,\r\n')
    (tmp_path / "own.csv").write_bytes(b'\xef\xbb\xbfcaption,name\n"two\nlines",file\n')
    (tmp_path / "cc3m.tsv").write_text('a "big\thttp://x\nred" car\thttp://y\n')
    files = [tmp_path / name for name in ("webvid.csv", "own.csv", "cc3m.tsv")]
    assert read_captions(files) == ["A dog, running", "two\nlines", 'a "big', 'red" car']
    (tmp_path / "other.csv").write_text("text,url\na,b\n")
    with pytest.raises(UserError, match='other.csv: has no column "caption" or "name"'):
        read_captions([tmp_path / "other.csv"])
    with pytest.raises(UserError, match="a.pdf: captions are read from .txt, .jsonl, .csv, .tsv files"):
        read_captions([tmp_path / "a.pdf"])


def test_read_training_texts(tmp_path):
    entry = {
        "video": "v.mp4",
        "captions": ["c1", "c2"],
        "questions": [{"question": "q", "answer": "a"}],
        "options": ["o1", "o2"],
    }
    (tmp_path / "train.jsonl").write_text(json.dumps(entry) + "\n" + json.dumps({"captions": ["c3"]}) + "\n")
    assert read_training_texts(tmp_path) == ["c1", "c2", "q", "o1", "o2", "c3"]
    assert read_training_texts(tmp_path, captions_only=True) == ["c1", "c2", "c3"]


@pytest.mark.parametrize("captions_only", [False, True])
def test_texts_of_a_prepared_dataset_are_those_of_its_source(folder_dataset, prepared_dataset, captions_only):
    texts = read_training_texts(prepared_dataset, captions_only=captions_only)
    assert sorted(texts) == sorted(read_training_texts(folder_dataset, captions_only=captions_only)) and len(texts) >= 48
    assert training_file(prepared_dataset).name == "prepared.json" and training_file(folder_dataset).name == "train.jsonl"


@pytest.mark.parametrize("line", ["{", '{"video": "v.mp4"}', '{"captions": "text"}', "7"])
def test_bad_caption_lines_are_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"captions": ["fine"]}\n' + line + "\n")
    with pytest.raises(UserError, match="a.jsonl line 2"):
        read_captions([tmp_path / "a.jsonl"])


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path, monkeypatch):
    target = tmp_path / "sub" / "file.bin"
    write_atomically(target, b"old")

    def no_space(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", no_space)
    with pytest.raises(UserError, match="No space left"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_train_tokenizer_tool(tmp_path):
    (tmp_path / "captions.txt").write_text("\n".join(CORPUS))
    command = [
        sys.executable,
        "tools/train_tokenizer.py",
        "--captions",
        tmp_path / "captions.txt",
        "--vocab-size",
        "90",
    ]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    options = {"cwd": REPOSITORY, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([*command, "--out", tmp_path / "spm.model"], **options)
    assert done.returncode == 0, done.stderr
    assert load_tokenizer(tmp_path / "spm.model").word_id("circle") is not None
    wrong = subprocess.run([*command, "--out", tmp_path / "spm.txt"], **options)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --out")
