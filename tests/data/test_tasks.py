"""The text side of an example, with a tokeniser small enough to read."""

import pickle

import numpy as np
import pytest

from snp_jax.data.records import Annotation, Question
from snp_jax.data.tasks import CaptionText, ChoiceText, QuestionText, TwoWindowsText, build_answer_vocabulary
from snp_jax.errors import UserError


class Letters:
    """One token per character: its code; a random window of a text that is too long, if there is a generator."""

    def encode(self, text, max_len, rng=None):
        start = rng.integers(len(text) - max_len + 1) if rng is not None and len(text) > max_len else 0
        codes = [ord(letter) for letter in text[start : start + max_len]]
        ids = np.zeros(max_len, np.int32)
        ids[: len(codes)] = codes
        return ids, np.arange(max_len) < len(codes)


ANNOTATION = Annotation(
    "clip",
    captions=("a", "bb", "ccc"),
    questions=(Question("x", "red"), Question("yy", "green")),
    options=("p", "qq", "rrr"),
    option_answer=2,
)


def text_of(ids, mask):
    return "".join(chr(code) for code in ids[mask])


def draws(task, count=60):
    rng = np.random.default_rng(0)
    return [task(ANNOTATION, rng) for _ in range(count)]


def test_any_caption():
    drawn = draws(CaptionText(Letters(), 5))
    assert {text_of(d["text_ids"], d["text_mask"]) for d in drawn} == {"a", "bb", "ccc"}
    assert set(drawn[0]) == {"text_ids", "text_mask"}
    assert drawn[0]["text_ids"].shape == drawn[0]["text_mask"].shape == (5,)


def test_a_long_caption_has_one_window_or_in_the_release_two():
    long = Annotation("clip", captions=("abcde",))

    def windows(task, annotation=long):
        rng = np.random.default_rng(0)
        return [task(annotation, rng) for _ in range(60)]

    drawn = windows(CaptionText(Letters(), 3))
    assert {text_of(d["text_ids"], d["text_mask"]) for d in drawn} == {"abc", "bcd", "cde"}
    both = windows(TwoWindowsText(Letters(), 3))
    pairs = {tuple(text_of(d[name], d["text_mask"]) for name in ("text_ids", "text_ids_to_mask")) for d in both}
    assert len(pairs) == 9  # any window with any
    for d in windows(TwoWindowsText(Letters(), 3), ANNOTATION):  # captions that fit have one
        np.testing.assert_array_equal(d["text_ids"], d["text_ids_to_mask"])


def test_any_question_with_its_answer():
    drawn = draws(QuestionText(Letters(), 5, {"blue": 0, "red": 1}))
    pairs = {(text_of(d["text_ids"], d["text_mask"]), int(d["label"])) for d in drawn}
    assert pairs == {("x", 1), ("yy", -1)}  # "green" is not in the vocabulary
    assert drawn[0]["label"].dtype == np.int32


def test_all_options_in_order():
    (drawn,) = draws(ChoiceText(Letters(), 4), 1)
    assert drawn["text_ids"].shape == drawn["text_mask"].shape == (3, 4)
    assert [text_of(*row) for row in zip(drawn["text_ids"], drawn["text_mask"], strict=True)] == [
        "p",
        "qq",
        "rrr",
    ]
    assert drawn["label"] == 2 and drawn["label"].dtype == np.int32


def test_tasks_travel_to_workers():
    for task in (
        CaptionText(Letters(), 5),
        TwoWindowsText(Letters(), 5),
        QuestionText(Letters(), 5, {"red": 0}),
        ChoiceText(Letters(), 5),
    ):
        copy = pickle.loads(pickle.dumps(task))
        assert copy.needs == task.needs


def test_answer_vocabulary_most_frequent_first_ties_in_alphabetical_order():
    answers = ["red", "red", "two", "two", "left", "blue", "blue", "blue"]
    notes = [Annotation(str(i), questions=(Question("q", answer),)) for i, answer in enumerate(answers)]
    assert build_answer_vocabulary(notes, 10) == {"blue": 0, "red": 1, "two": 2, "left": 3}
    assert build_answer_vocabulary(notes, 2) == {"blue": 0, "red": 1}


def test_answer_vocabulary_without_questions():
    with pytest.raises(UserError, match="no video has questions"):
        build_answer_vocabulary([Annotation("a", captions=("x",))], 10)
