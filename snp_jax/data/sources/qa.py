"""MSRVTT-QA and MSVD-QA: open-ended questions with an answer vocabulary made from the training answers.

Files: `{train,val,test}_qa.json` of xudejing/video-question-answering, or ClipBERT's JSON lines. The vocabulary is
the most frequent training answers, equally frequent ones in the order of their first appearance, and is stored with
the dataset. Training questions with other answers are left out; validation and test questions are all kept and count
as wrong.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from snp_jax.data.records import Annotation, Question
from snp_jax.data.sources import msrvtt, msvd
from snp_jax.data.sources.layout import Layout, MediaIndex, clean, field, iter_json_lines, read_json, read_list, stem
from snp_jax.data.sources.prepared import ANSWERS_FILE
from snp_jax.data.sources.rows import Expected, Reading, Row, Split
from snp_jax.errors import UserError

SPLITS = ("train", "val", "test")
_SIZES = {  # questions and, where known, videos
    "msrvtt_qa": {"train": (158_581, 6_513), "val": (12_278, 497), "test": (72_821, 2_990)},
    "msvd_qa": {"train": (30_933, None), "val": (6_415, None), "test": (13_157, None)},
}
_VOCABULARY = {"msrvtt_qa": 1_500, "msvd_qa": 1_000}
Asked = dict[str, list[Question]]  # video id -> questions


def read_msrvtt(manual_dir: Path) -> Reading:
    """MSRVTT-QA, 1,500 answers.

    Raises:
        UserError: an annotation file is missing or malformed.
    """
    layout = Layout("msrvtt_qa", manual_dir, ("msrvtt_qa", "MSRVTT-QA", *msrvtt.BELOW))
    return _reading(layout, lambda number: f"video{number}")


def read_msvd(manual_dir: Path) -> Reading:
    """MSVD-QA, 1,000 answers. Videos are numbered; `youtube_mapping.txt`, or the three lists one after the other, name them.

    Raises:
        UserError: an annotation file is missing or malformed, or a number has no name.
    """
    layout = Layout("msvd_qa", manual_dir, ("msvd_qa", "MSVD-QA", *msvd.BELOW))
    names = _msvd_names(layout)

    def name(number: int) -> str:
        if number not in names:
            raise UserError(f"msvd_qa: video number {number} has no line in youtube_mapping.txt; download that file again")
        return names[number]

    return _reading(layout, name)


def answer_vocabulary(answers: Iterable[str], size: int) -> dict[str, int]:
    """The `size` most frequent answers -> 0, 1, ...; equally frequent ones in the order of their first appearance."""
    counts = collections.Counter(answers)  # remembers the order of first appearance, and sorting is stable
    ranked = sorted(counts, key=lambda answer: -counts[answer])
    return {answer: number for number, answer in enumerate(ranked[:size])}


def _reading(layout: Layout, video_of: Callable[[int], str]) -> Reading:
    asked = {split: _read_questions(_question_file(layout, split), video_of) for split in SPLITS}
    answers = (question.answer for questions in asked["train"].values() for question in questions)
    vocabulary = answer_vocabulary(answers, _VOCABULARY[layout.name])
    media = layout.media()
    splits = tuple(_split(layout.name, split, asked[split], vocabulary, media) for split in SPLITS)
    content = json.dumps(vocabulary, indent=0, ensure_ascii=False) + "\n"
    notes = tuple(_coverage(split, asked[split], vocabulary) for split in SPLITS)
    return Reading(layout.name, splits, files={ANSWERS_FILE: content.encode()}, notes=notes)


def _split(dataset: str, split: str, asked: Asked, vocabulary: dict[str, int], media: MediaIndex) -> Split:
    num_questions, num_videos = _SIZES[dataset][split]
    counts = {"questions": sum(map(len, asked.values())), "videos": len(asked)}
    rows = []
    for video, questions in asked.items():
        if split == "train":
            questions = [question for question in questions if question.answer in vocabulary]
        if questions:
            rows.append(Row(Annotation(video, questions=tuple(questions)), media.find(video)))
    certain = split == "test"  # the other sizes are quoted, not counted
    expected = Expected(videos=num_videos, questions=num_questions, certain=certain)
    return Split(split, rows, expected, keep_missing=split != "train", counts=counts)


def _coverage(split: str, asked: Asked, vocabulary: dict[str, int]) -> str:
    """How many answers can be right at all."""
    questions = [question for listed in asked.values() for question in listed]
    inside = sum(question.answer in vocabulary for question in questions)
    share = f"{inside / len(questions):.1%}" if questions else "none"
    rest = "left out" if split == "train" else "kept: they count as wrong"
    return f"{split}: {share} of {len(questions):,} answers are in the vocabulary of {len(vocabulary):,}; the rest is {rest}"


def _question_file(layout: Layout, split: str) -> Path:
    return layout.need(
        f"{split}_qa.json", f"qa_{split}.json", f"*{split}_qa.jsonl", f"{split}.jsonl",
        f"**/{split}_qa.json", f"**/qa_{split}.json",
    )  # fmt: skip


def _read_questions(path: Path, video_of: Callable[[int], str]) -> Asked:
    """Questions by video, in the order of the file."""
    asked: Asked = {}
    for where, entry in iter_json_lines(path) if path.suffix == ".jsonl" else _items(path):
        question, answer = clean(field(entry, "question", str, where)), clean(field(entry, "answer", str, where))
        if not question or not answer:
            raise UserError(f"{where}: the question or its answer is empty; mend or remove it")
        number = field(entry, "video_id", (int, str), where)
        video = video_of(number) if isinstance(number, int) else stem(number)
        asked.setdefault(video, []).append(Question(question, answer, question.split()[0]))
    return asked


def _items(path: Path) -> Iterator[tuple[str, dict]]:
    for number, entry in enumerate(read_json(path)):
        yield f"{path}: entry {number}", entry


def _msvd_names(layout: Layout) -> dict[int, str]:
    mapping = layout.find("youtube_mapping.txt", "**/youtube_mapping.txt")
    if mapping is None:
        videos = [video for split in SPLITS for video in read_list(msvd.list_file(layout, split))]
        return dict(enumerate(videos, start=1))
    names = {}
    for line in read_list(mapping):
        name, _, number = line.rpartition(" ")
        if not name or not number.removeprefix("vid").isdigit():
            raise UserError(f"{mapping}: expected lines such as 'name vid12', found {line!r}")
        names[int(number.removeprefix("vid"))] = name
    return names
