"""Lines of a folder dataset: what is accepted, and the sentence for what is not."""

import json

import pytest

from snp_jax.data.records import Annotation, Question, from_example, parse_line, to_example
from snp_jax.errors import UserError

FULL = {
    "video": "a/clip.one.mp4",
    "captions": ["a dog", "ein Hund — läuft"],
    "start": 0,
    "end": 2.5,
    "questions": [
        {"question": "which colour?", "answer": "red", "kind": "colour"},
        {"question": "q", "answer": "a"},
    ],
    "options": ["a", "b", "c"],
    "option_answer": 0,
    "fits": [["b", "c"], []],
}


def parse(entry):
    return parse_line(entry if isinstance(entry, str) else json.dumps(entry), "data/train.jsonl", 7)


def test_a_full_line():
    line = parse(FULL)
    assert line.video == "a/clip.one.mp4"
    assert line.where == "data/train.jsonl:7"
    assert line.annotation == Annotation(
        video_id="a/clip.one",
        captions=("a dog", "ein Hund — läuft"),
        start=0.0,
        end=2.5,
        questions=(Question("which colour?", "red", "colour"), Question("q", "a", "")),
        options=("a", "b", "c"),
        option_answer=0,
        fits=(frozenset({"b", "c"}), frozenset()),
    )


def test_a_short_line():
    annotation = parse({"video": "a.mp4", "captions": ["x", "y"]}).annotation
    assert annotation == Annotation("a", captions=("x", "y"), fits=(frozenset(), frozenset()))


@pytest.mark.parametrize(
    "entry, message",
    [
        ('{"video": "a.mp4", "captions": ["x"]', "not JSON"),
        ('["a.mp4"]', "expected a JSON object"),
        ({"captions": ["x"]}, 'the key "video"'),
        ({"video": 3, "captions": ["x"]}, 'the key "video"'),
        ({"video": "../a.mp4", "captions": ["x"]}, "below videos/"),
        ({"video": "/a.mp4", "captions": ["x"]}, "below videos/"),
        ({"video": "a.mp4"}, 'video "a.mp4" has no captions'),
        ({"video": "a.mp4", "captions": []}, "has no captions"),
        ({"video": "a.mp4", "caption": ["x"]}, 'unknown key "caption"; did you mean "captions"?'),
        ({"video": "a.mp4", "captions": "x"}, '"captions" must be a list of sentences, found "x"'),
        ({"video": "a.mp4", "captions": ["x", " "]}, 'every item of "captions" must be a sentence'),
        ({"video": "a.mp4", "captions": ["x"], "start": "0"}, '"start" must be a time'),
        ({"video": "a.mp4", "captions": ["x"], "start": -1}, '"start" must be a time'),
        ('{"video": "a.mp4", "captions": ["x"], "end": NaN}', '"end" must be a time'),
        ({"video": "a.mp4", "captions": ["x"], "start": 2, "end": 2}, "the span ends at 2.0 s"),
        ({"video": "a.mp4", "questions": [{"question": "q"}]}, 'needs a "question" and an "answer"'),
        ({"video": "a.mp4", "questions": [{"question": "q", "anwser": "a"}]}, 'did you mean "answer"?'),
        ({"video": "a.mp4", "questions": ["q"]}, '"questions" must be a list of {'),
        ({"video": "a.mp4", "options": ["a"], "option_answer": 0}, "at least two"),
        ({"video": "a.mp4", "options": ["a", "b"]}, "index of the right option, 0 to 1"),
        ({"video": "a.mp4", "options": ["a", "b"], "option_answer": 2}, "index of the right option, 0 to 1"),
        ({"video": "a.mp4", "captions": ["x"], "option_answer": 0}, "at least two"),
        ({"video": "a.mp4", "captions": ["x"], "fits": [["b"], []]}, "2 lists for 1 captions"),
        ({"video": "a.mp4", "captions": ["x"], "fits": ["b"]}, "one list of video ids per caption"),
    ],
)
def test_bad_lines_are_refused_with_their_place(entry, message):
    with pytest.raises(UserError) as caught:
        parse(entry)
    assert str(caught.value).startswith("data/train.jsonl:7: ")
    assert message in str(caught.value)


def as_tfds_returns_it(example):
    """Strings as bytes; a sequence of dicts as a dict of lists."""

    def encode(value):
        return value.encode() if isinstance(value, str) else value

    out = {name: encode(value) for name, value in example.items()}
    for name in ("captions", "options"):
        out[name] = [encode(value) for value in example[name]]
    for name, keys in (("questions", ("question", "answer", "kind")), ("fits", ("caption", "video_id"))):
        out[name] = {key: [encode(row[key]) for row in example[name]] for key in keys}
    return out


@pytest.mark.parametrize("entry", [FULL, {"video": "a.mp4", "captions": ["x"], "start": 1.5}])
def test_stored_and_read_back(entry):
    annotation = parse(entry).annotation
    assert from_example(as_tfds_returns_it(to_example(annotation, b"mp4"))) == annotation
