"""Which text of a video goes into a training example: a caption, a question or a multiple choice.

Each class is a small frozen object that the pipeline calls in its workers with (annotation, random generator)
and that returns named arrays. `needs` names what every video of the split must have; the pipeline checks it
before it starts.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from snp_jax.data.records import Annotation
from snp_jax.data.text import Tokenizer
from snp_jax.errors import UserError

UNKNOWN_ANSWER = -1


@dataclasses.dataclass(frozen=True)
class CaptionText:
    """One caption of the video, drawn anew each time: `text_ids` int32 `[L]`, `text_mask` bool `[L]`.

    Of a caption longer than L - 2 tokens a random window is drawn, once: its masked copy is made from the same ids.
    """

    tokenizer: Tokenizer
    max_len: int
    needs = "captions"

    def __call__(self, annotation: Annotation, rng: np.random.Generator) -> dict[str, np.ndarray]:
        ids, mask = self.tokenizer.encode(_draw_caption(annotation, rng), self.max_len, rng)
        return {"text_ids": ids, "text_mask": mask}


@dataclasses.dataclass(frozen=True)
class TwoWindowsText:
    """`CaptionText`, and of the same caption a second window, drawn separately: `text_ids_to_mask` int32 `[L]`.

    In the authors' release the masked copy of a long caption is another part of it than the raw copy (method.md section 7
    item 2). Both windows have as many tokens, so `text_mask` holds for both; those of a short caption are equal.
    """

    tokenizer: Tokenizer
    max_len: int
    needs = "captions"

    def __call__(self, annotation: Annotation, rng: np.random.Generator) -> dict[str, np.ndarray]:
        caption = _draw_caption(annotation, rng)
        ids, mask = self.tokenizer.encode(caption, self.max_len, rng)
        to_mask, _ = self.tokenizer.encode(caption, self.max_len, rng)
        return {"text_ids": ids, "text_mask": mask, "text_ids_to_mask": to_mask}


def _draw_caption(annotation: Annotation, rng: np.random.Generator) -> str:
    """One of the video's captions, uniformly."""
    return annotation.captions[rng.integers(len(annotation.captions))]


@dataclasses.dataclass(frozen=True)
class QuestionText:
    """One question, drawn anew each time: `text_ids`, `text_mask` `[L]`, `label` int32 (-1: unknown)."""

    tokenizer: Tokenizer
    max_len: int
    answers: Mapping[str, int]
    needs = "questions"

    def __call__(self, annotation: Annotation, rng: np.random.Generator) -> dict[str, np.ndarray]:
        question = annotation.questions[rng.integers(len(annotation.questions))]
        ids, mask = self.tokenizer.encode(question.question, self.max_len, rng)
        label = self.answers.get(question.answer, UNKNOWN_ANSWER)
        return {"text_ids": ids, "text_mask": mask, "label": np.int32(label)}


@dataclasses.dataclass(frozen=True)
class ChoiceText:
    """All O options: `text_ids`, `text_mask` `[O, L]`, `label` int32 = index of the right one."""

    tokenizer: Tokenizer
    max_len: int
    needs = "choices"

    def __call__(self, annotation: Annotation, rng: np.random.Generator) -> dict[str, np.ndarray]:
        encoded = [self.tokenizer.encode(option, self.max_len, rng) for option in annotation.options]
        return {
            "text_ids": np.stack([ids for ids, _ in encoded]),
            "text_mask": np.stack([mask for _, mask in encoded]),
            "label": np.int32(annotation.option_answer),
        }


def build_answer_vocabulary(annotations: Iterable[Annotation], size: int) -> dict[str, int]:
    """The `size` most frequent answers -> ids 0, 1, ...; most frequent first, ties in alphabetical order.

    Raises:
        UserError: there are no questions.
    """
    counts = collections.Counter(question.answer for annotation in annotations for question in annotation.questions)
    if not counts:
        raise UserError('no video has questions; add "questions": [{"question": "...", "answer": "..."}] to the lines')
    ranked = sorted(counts, key=lambda answer: (-counts[answer], answer))
    return {answer: i for i, answer in enumerate(ranked[:size])}
