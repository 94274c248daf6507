"""The release's own format: one JSON object a line with caption and clip_name, for videos and images.

Keys: caption, clip_name, sen_id, type ("video" or "image"), start, end, label, retrieval_key, options, answer. Lines
of one clip and one span become one example; a clip with several spans becomes several.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snp_jax.data.records import Annotation, Question
from snp_jax.data.sources.layout import Layout, MediaIndex, clean, field, iter_json_lines, stem
from snp_jax.data.sources.rows import Media, Reading, Row, Split
from snp_jax.errors import UserError

_SUFFIX = {"video": ".mp4", "image": ".jpg"}
_FOLDERS = ("", "videos", "images", "data")
_ID_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".gif", ".jpg", ".jpeg", ".png", ".webp")


@dataclasses.dataclass
class _Example:
    """What the lines of one clip and span say."""

    clip: str
    kind: str
    start: float | None
    end: float | None
    captions: list[str] = dataclasses.field(default_factory=list)
    questions: list[Question] = dataclasses.field(default_factory=list)
    options: tuple[str, ...] = ()
    option_answer: int | None = None


def read_lines(manual_dir: Path, variant: str) -> Reading:
    """All `*train*.jsonl`, `*val*.jsonl` and `*test*.jsonl` of a directory.

    Args:
        manual_dir: holds these files and the media, which clip_name names relative to it (also below videos/ or images/).
        variant: what the lines are: "retrieval" (captions; also for pre-training), "qa" (caption is the question;
            answer, or else label, is its answer) or "choice" (options, and answer = index of the right one).

    Raises:
        UserError: no such file, or a malformed line, with its place.
    """
    name = f"jsonl/{variant}"
    layout = Layout(name, manual_dir)
    media = None
    splits = []
    for split in ("train", "val", "test"):
        files = sorted(layout.manual_dir.glob(f"*{split}*.jsonl"))
        if not files:
            continue
        examples: dict[tuple, _Example] = {}
        for file in files:
            for where, entry in iter_json_lines(file):
                _add(examples, entry, variant, where)
        media = media or layout.media()
        rows = [Row(annotation, _find(layout, media, example)) for annotation, example in _annotations(examples)]
        splits.append(Split(split, rows, keep_missing=split != "train"))
    if not splits:
        layout.need("*train*.jsonl", "*val*.jsonl", "*test*.jsonl")
    return Reading(name, tuple(splits))


def _add(examples: dict[tuple, _Example], entry: Mapping[str, Any], variant: str, where: str) -> None:
    clip = field(entry, "clip_name", str, where)
    kind = entry.get("type", "video")
    if kind not in _SUFFIX:
        raise UserError(f'{where}: "type" must be "video" or "image", found {kind!r}')
    start, end = (_seconds(entry, key, where) for key in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise UserError(f'{where}: the span ends at {end} s, not after its start at {start or 0.0} s; correct "end"')
    if variant == "choice":  # every question is an example of its own
        options = tuple(clean(str(option)) for option in field(entry, "options", list, where))
        answer = _answer(entry, len(options), where)
        key = (clip, start, end, entry.get("qid", where))
        examples[key] = _Example(clip, kind, start, end, options=options, option_answer=answer)
        return
    example = examples.setdefault((clip, start, end), _Example(clip, kind, start, end))
    caption = clean(field(entry, "caption", str, where))
    if not caption:
        raise UserError(f'{where}: "caption" is empty; mend or remove this line')
    if variant == "retrieval":
        example.captions.append(caption)
        return
    answer = entry.get("answer", entry.get("label"))
    if answer is None or isinstance(answer, list | dict):
        raise UserError(f'{where}: a question needs an "answer" or a "label", found neither')
    example.questions.append(Question(caption, clean(str(answer)), caption.split()[0]))


def _annotations(examples: dict[tuple, _Example]) -> list[tuple[Annotation, _Example]]:
    """Ids: the clip's path without suffix, with the span or a number where a clip has several examples."""
    of_clip: dict[str, list[_Example]] = {}
    for example in examples.values():
        of_clip.setdefault(_clip_id(example.clip), []).append(example)
    annotations = []
    for clip, listed in of_clip.items():
        for number, example in enumerate(listed):
            annotation = Annotation(
                video_id=clip if len(listed) == 1 else f"{clip}#{number}",
                captions=tuple(example.captions),
                start=example.start,
                end=example.end,
                questions=tuple(example.questions),
                options=example.options,
                option_answer=example.option_answer,
            )
            annotations.append((annotation, example))
    return annotations


def _clip_id(clip: str) -> str:
    return stem(clip) if clip.lower().endswith(_ID_SUFFIXES) else clip


def _find(layout: Layout, index: MediaIndex, example: _Example) -> Media | None:
    names = [example.clip] if "." in example.clip.rsplit("/", 1)[-1] else [example.clip + _SUFFIX[example.kind], example.clip]
    for name in names:
        for folder in _FOLDERS:
            media = Media.file(layout.manual_dir / folder / name)
            if media is not None:
                return media
    return index.find(example.clip)


def _seconds(entry: Mapping[str, Any], key: str, where: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UserError(f'{where}: "{key}" must be a time in seconds, found {value!r}')
    return float(value)


def _answer(entry: Mapping[str, Any], num_options: int, where: str) -> int:
    value = field(entry, "answer", (int, str), where)
    if num_options < 2 or not str(value).isdigit() or int(value) >= num_options:
        raise UserError(f'{where}: "answer" must be the index of one of several "options", found {value!r} of {num_options}')
    return int(value)
