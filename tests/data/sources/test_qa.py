"""MSRVTT-QA and MSVD-QA: vocabularies, answers outside them, and numbers that stand for videos."""

import json

import pytest

from snp_jax.data.records import Question
from snp_jax.data.sources import prepared, qa
from snp_jax.errors import UserError


def asked(video, answer, question="what is it?"):
    return {"answer": answer, "question": question, "video_id": video, "id": 1, "category_id": 2}


def test_the_vocabulary_breaks_ties_by_first_appearance():
    answers = ["zebra", "dog", "cat", "dog", "ant", "cat", "zebra"]
    assert qa.answer_vocabulary(answers, 3) == {"zebra": 0, "dog": 1, "cat": 2}
    assert qa.answer_vocabulary(["b", "a", "a"], 9) == {"a": 0, "b": 1}


@pytest.fixture
def msrvtt(tmp_path, write_json, make_video, monkeypatch):
    monkeypatch.setitem(qa._VOCABULARY, "msrvtt_qa", 2)
    train = [asked(0, "dog", "what runs?"), asked(3, "cat"), asked(0, "cat", "who sits?"), asked(0, "ant"), asked(5, "ant")]
    write_json(tmp_path / "train_qa.json", [*train, asked(0, "dog"), asked(0, "cat")])
    write_json(tmp_path / "val_qa.json", [asked(6513, "ant")])
    write_json(tmp_path / "test_qa.json", [asked(7010, "cat"), asked(7010, "bee")])
    for number in (0, 3, 5):
        make_video(tmp_path / "TrainValVideo" / f"video{number}.mp4", 3)
    make_video(tmp_path / "TestVideo" / "video7010.mp4", 3)
    return tmp_path


def test_msrvtt_qa(msrvtt, store):
    stored = store("msrvtt_qa", msrvtt)
    assert prepared.read_answers(stored.out) == {"cat": 0, "dog": 1}
    assert stored.numbers("train") == (2, 0, 5, 0, 0, 0)  # video5 has no answer of the vocabulary
    assert stored.numbers("val") == (1, 0, 1, 0, 1, 0)  # kept: counts as wrong
    assert stored.numbers("test") == (1, 0, 2, 0, 0, 0)
    questions = stored.annotation("train", "video0").questions
    assert [q.question for q in questions] == ["what runs?", "who sits?", "what is it?", "what is it?"]
    assert questions[0] == Question("what runs?", "dog", "what")
    notes = prepared.read_notes(stored.out)
    assert "test: 50.0% of 2 answers are in the vocabulary of 2; the rest is kept: they count as wrong" in notes
    assert "the train split has 7 annotated questions, published are 158,581" in notes  # counted before any were left out
    assert "the test split has 2 annotated questions, published are 72,821" in notes


def test_clipbert_lines(tmp_path, write_json):
    lines = [{"answer": "dog", "question": "what is it", "video_id": "video6513", "answer_type": "what"}]
    for split in qa.SPLITS:
        write_json(tmp_path / "msrvtt_qa" / f"{split}.jsonl", lines)
    splits = qa.read_msrvtt(tmp_path).splits
    assert [[row.annotation.video_id for row in split.rows] for split in splits] == [["video6513"]] * 3


@pytest.fixture
def msvd(tmp_path, write_json, make_video):
    names = ["a_1_2", "b_3_4", "c_5_6"]
    for number, (split, name) in enumerate(zip(qa.SPLITS, names, strict=True), start=1):
        write_json(tmp_path / f"{split}_qa.json", [asked(number, "dog")])
        make_video(tmp_path / "YouTubeClips" / f"{name}.avi", 3, codec="mpeg4")
    (tmp_path / "youtube_mapping.txt").write_text("".join(f"{name} vid{i}\n" for i, name in enumerate(names, start=1)))
    return tmp_path


def test_msvd_qa(msvd, store):
    stored = store("msvd_qa", msvd)
    assert [list(stored.records[split]) for split in qa.SPLITS] == [["a_1_2"], ["b_3_4"], ["c_5_6"]]
    assert stored.records["test"]["c_5_6"].video == (msvd / "YouTubeClips" / "c_5_6.avi").read_bytes()
    assert json.loads((stored.out / "answers.json").read_text()) == {"dog": 0}


def test_the_lists_replace_the_mapping(msvd):
    (msvd / "youtube_mapping.txt").unlink()
    for split, name in zip(qa.SPLITS, ("a_1_2", "b_3_4", "c_5_6"), strict=True):
        (msvd / f"{split}_list.txt").write_text(name)
    assert [split.rows[0].annotation.video_id for split in qa.read_msvd(msvd).splits] == ["a_1_2", "b_3_4", "c_5_6"]


def test_sizes():
    assert {name: {split: n for split, (n, _) in sizes.items()} for name, sizes in qa._SIZES.items()} == {
        "msrvtt_qa": {"train": 158_581, "val": 12_278, "test": 72_821},
        "msvd_qa": {"train": 30_933, "val": 6_415, "test": 13_157},
    }


def test_complaints(msvd, write_json):
    write_json(msvd / "val_qa.json", [asked(77, "dog")])
    with pytest.raises(UserError, match="video number 77 has no line in youtube_mapping.txt"):
        qa.read_msvd(msvd)
    write_json(msvd / "val_qa.json", [asked(1, "dog"), {"question": "what?", "video_id": 1}])
    with pytest.raises(UserError, match='val_qa.json: entry 1: "answer" must be str, found no such key'):
        qa.read_msvd(msvd)
