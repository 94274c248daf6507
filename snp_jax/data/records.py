"""What is known about one video: the `Annotation`; from a line of JSON, to a stored example and back.

The line format is that of a folder dataset (docs/data.md). Which files hold the lines, and whether the videos
exist, is the business of `sources/folder`; the storage itself (TFDS, ArrayRecord) is in `sources/shards`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from snp_jax.errors import UserError

WHOLE_VIDEO = -1.0  # how a stored example writes "no start" and "no end"
NO_OPTION = -1  # how a stored example writes "no multiple choice"


@dataclasses.dataclass(frozen=True)
class Question:
    """One question about a video; `kind` ("colour", "count", ...) may be empty."""

    question: str
    answer: str
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Annotation:
    """Everything but the pixels.

    Attributes:
        video_id: path of the video below `videos/`, without suffix.
        captions: sentences that describe the video.
        start, end: the part that is meant, in seconds from the first frame; None = start, end of the video.
        questions: open-ended questions.
        options: the candidate sentences of a multiple choice, or none.
        option_answer: index of the right option; None without options.
        fits: parallel to `captions`: ids of OTHER videos of the split that the caption describes as well.
    """

    video_id: str
    captions: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    questions: tuple[Question, ...] = ()
    options: tuple[str, ...] = ()
    option_answer: int | None = None
    fits: tuple[frozenset[str], ...] = ()

    def renamed(self, video_id: str) -> Annotation:
        """The same under another id."""
        return dataclasses.replace(self, video_id=video_id)


@dataclasses.dataclass(frozen=True)
class VideoLine:
    """One line of a `.jsonl` file: its annotation, the video's path below `videos/`, and its place."""

    annotation: Annotation
    video: str
    where: str


_KEYS = ("video", "captions", "start", "end", "questions", "options", "option_answer", "fits")
_QUESTION_KEYS = ("question", "answer", "kind")


def parse_line(text: str, file: str | Path, line: int) -> VideoLine:
    """Reads one line of a folder dataset's `.jsonl` file.

    Args:
        text: the line.
        file, line: where it stands (counted from 1), for messages.

    Raises:
        UserError: not JSON, a missing, unknown or wrongly typed key, or a line that says nothing about its
        video.
    """
    where = f"{file}:{line}"
    try:
        entry = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: this line is not JSON ({error.msg} at column {error.colno}); write one JSON object per line"
        ) from error
    if not isinstance(entry, dict):
        raise UserError(
            f'{where}: expected a JSON object such as {{"video": "a.mp4", "captions": ["..."]}}, found {_shown(entry)}'
        )
    _check_keys(entry, _KEYS, where)
    video = _video_path(entry, where)
    captions = _strings(entry, "captions", where)
    options = _strings(entry, "options", where)
    start, end = _span(entry, where)
    annotation = Annotation(
        video_id=str(PurePosixPath(video).with_suffix("")),
        captions=captions,
        start=start,
        end=end,
        questions=_questions(entry, where),
        options=options,
        option_answer=_option_answer(entry, len(options), where),
        fits=_fits(entry, len(captions), where),
    )
    if not (annotation.captions or annotation.questions or annotation.options):
        raise UserError(
            f'{where}: video "{video}" has no captions, no questions and no options; add "captions": ["..."] or remove the line'
        )
    return VideoLine(annotation, video, where)


def to_example(annotation: Annotation, video: bytes) -> dict[str, Any]:
    """The stored form of a record: plain values in the layout of `sources.shards.features`."""
    return {
        "video": video,
        "video_id": annotation.video_id,
        "captions": list(annotation.captions),
        "start": WHOLE_VIDEO if annotation.start is None else annotation.start,
        "end": WHOLE_VIDEO if annotation.end is None else annotation.end,
        "questions": [dataclasses.asdict(question) for question in annotation.questions],
        "options": list(annotation.options),
        "option_answer": NO_OPTION if annotation.option_answer is None else annotation.option_answer,
        "fits": [
            {"caption": caption, "video_id": video_id}
            for caption, ids in enumerate(annotation.fits)
            for video_id in sorted(ids)
        ],
    }


def from_example(example: Mapping[str, Any]) -> Annotation:
    """The annotation of a stored example as TFDS gives it back.

    Strings come back as bytes, a sequence of dicts as a dict of lists.
    """
    captions = tuple(_text(caption) for caption in example["captions"])
    start, end = float(example["start"]), float(example["end"])
    option_answer = int(example["option_answer"])
    fits: list[set[str]] = [set() for _ in captions]
    for caption, video_id in zip(example["fits"]["caption"], example["fits"]["video_id"], strict=True):
        fits[int(caption)].add(_text(video_id))
    questions = example["questions"]
    return Annotation(
        video_id=_text(example["video_id"]),
        captions=captions,
        start=None if start < 0 else start,
        end=None if end < 0 else end,
        questions=tuple(
            Question(_text(question), _text(answer), _text(kind))
            for question, answer, kind in zip(questions["question"], questions["answer"], questions["kind"], strict=True)
        ),
        options=tuple(_text(option) for option in example["options"]),
        option_answer=None if option_answer < 0 else option_answer,
        fits=tuple(frozenset(ids) for ids in fits),
    )


def _text(value: bytes | str) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _shown(value: object) -> str:
    """A value as the message shows it: JSON, cut to 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_keys(entry: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in entry:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f'did you mean "{close[0]}"?' if close else f"known keys are {', '.join(known)}"
            raise UserError(f'{where}: unknown key "{key}"; {hint}')


def _video_path(entry: Mapping[str, Any], where: str) -> str:
    video = entry.get("video")
    if not isinstance(video, str) or not video:
        raise UserError(
            f'{where}: the key "video" must hold the path of a video below videos/, '
            f"found {_shown(video) if 'video' in entry else 'no such key'}"
        )
    path = PurePosixPath(video)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f'{where}: "video" is {_shown(video)}; give a path below videos/, without ".." or a leading "/"')
    return str(path)


def _strings(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = entry.get(key, [])
    if not isinstance(value, list):
        raise UserError(f'{where}: "{key}" must be a list of sentences, found {_shown(value)}')
    for item in value:
        if not isinstance(item, str) or not item.strip():
            raise UserError(f'{where}: every item of "{key}" must be a sentence, found {_shown(item)}')
    return tuple(value)


def _span(entry: Mapping[str, Any], where: str) -> tuple[float | None, float | None]:
    bounds = []
    for key in ("start", "end"):
        value = entry.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
        if value is not None and not number:
            raise UserError(f'{where}: "{key}" must be a time in seconds, found {_shown(value)}')
        bounds.append(None if value is None else float(value))
    start, end = bounds
    if end is not None and end <= (start or 0.0):
        raise UserError(
            f'{where}: the span ends at {end} s, not after its start at {start or 0.0} s; correct "start" and "end"'
        )
    return start, end


def _questions(entry: Mapping[str, Any], where: str) -> tuple[Question, ...]:
    value = entry.get("questions", [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UserError(f'{where}: "questions" must be a list of {{"question": "...", "answer": "..."}}, found {_shown(value)}')
    questions = []
    for item in value:
        _check_keys(item, _QUESTION_KEYS, f"{where}: in a question")
        fields = {key: item.get(key, "") for key in _QUESTION_KEYS}
        if not all(isinstance(text, str) for text in fields.values()) or not fields["question"] or not fields["answer"]:
            raise UserError(f'{where}: a question needs a "question" and an "answer", both text, found {_shown(item)}')
        questions.append(Question(**fields))
    return tuple(questions)


def _option_answer(entry: Mapping[str, Any], num_options: int, where: str) -> int | None:
    answer = entry.get("option_answer")
    if num_options == 0 and answer is None:
        return None
    if num_options < 2:
        raise UserError(f'{where}: a multiple choice needs at least two "options", found {num_options}')
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < num_options:
        raise UserError(
            f'{where}: "option_answer" must be the index of the right option, 0 to {num_options - 1}, found {_shown(answer)}'
        )
    return answer


def _fits(entry: Mapping[str, Any], num_captions: int, where: str) -> tuple[frozenset[str], ...]:
    value = entry.get("fits", [[]] * num_captions)
    if not isinstance(value, list) or not all(
        isinstance(ids, list) and all(isinstance(video_id, str) for video_id in ids) for ids in value
    ):
        raise UserError(f'{where}: "fits" must hold one list of video ids per caption, found {_shown(value)}')
    if len(value) != num_captions:
        raise UserError(f'{where}: "fits" has {len(value)} lists for {num_captions} captions; give one list per caption')
    return tuple(frozenset(ids) for ids in value)
