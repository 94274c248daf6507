"""What is scored against what: retrieval, open-ended QA and multiple choice on a test split (SNP-S3 section IV).

Uses `scoring` for device passes and `metrics` for numbers. Every annotated item is counted: one whose video cannot be decoded
scores last (retrieval) or is wrong (QA, choice).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from snp_jax.data.records import Annotation
from snp_jax.data.text import Tokenizer
from snp_jax.errors import UserError
from snp_jax.eval import metrics
from snp_jax.eval.scores import RetrievalScores
from snp_jax.eval.scoring import EncodedVideos, Scorer, encode_all, stage1_matrix


@dataclasses.dataclass(frozen=True)
class Queries:
    """The texts of a retrieval test: Q captions, and for each the row of its video."""

    texts: list[str]
    video: np.ndarray


def retrieval(
    scorer: Scorer, videos: EncodedVideos, annotations: list[Annotation], tokenizer: Tokenizer, *,
    max_len: int, rerank: int, captions: str, duplicates: str, ties: str,
) -> tuple[dict[str, Any], RetrievalScores]:  # fmt: skip
    """Text-to-video and video-to-text retrieval, stage 1 and stage 2: JSON-able numbers, and what they were made of.

    Args:
        rerank: stage 2 scores this many best candidates of stage 1 for each query, in each direction; 0 = all pairs.
        captions: "all" = every caption is a query, "first" = the first of each video.
        duplicates: what else is correct: see `metrics.positive_pairs`.
        ties: how equal scores are ranked: see `metrics.ranks`.
    """
    if ties not in ("average", "index"):
        raise UserError(f'config.evaluation.ties={ties!r}: choose "average" or "index"')
    queries = _queries(annotations, captions)
    encoded = scorer.texts(queries.texts, tokenizer, max_len)
    stage1 = stage1_matrix(encoded, videos)
    by_text = _best(stage1, rerank)
    by_video = _best(stage1.T, rerank).T
    text_index, video_index = np.nonzero((by_text | by_video) & videos.valid[None])
    stage2 = np.full(stage1.shape, np.nan)
    stage2[text_index, video_index] = scorer.pairs(encoded.ids, encoded.mask, videos, text_index, video_index)
    t2v = metrics.rerank(stage1, np.where(by_text, stage2, np.nan))
    v2t = metrics.rerank(stage1.T, np.where(by_video, stage2, np.nan).T)
    positives = metrics.positive_pairs(
        queries.texts, [videos.ids[row] for row in queries.video], videos.ids,
        duplicates=duplicates, fits=_fits(annotations, captions) if duplicates == "fits" else None,
    )  # fmt: skip
    results = {
        "gallery": len(videos.ids),
        "queries": len(queries.texts),
        "several_correct": int((positives.sum(axis=1) > 1).sum()),
        "duplicates": duplicates,
        "stage2_candidates": rerank or len(videos.ids),
        "t2v": metrics.recall_metrics(t2v, positives, ties=ties),
        "v2t": metrics.recall_metrics(v2t, positives.T, ties=ties),
        "stage1": metrics.both_directions(stage1, positives, ties=ties),
    }
    scores = RetrievalScores(
        np.array(queries.texts), queries.video, np.array(videos.ids), videos.valid, stage1, stage2.astype(np.float32), t2v,
        positives,
    )  # fmt: skip
    return results, scores


def _queries(annotations: list[Annotation], captions: str) -> Queries:
    if captions not in ("all", "first"):
        raise UserError(f'config.evaluation.captions={captions!r}: choose "all" or "first"')
    last = None if captions == "all" else 1
    rows = [(text, row) for row, a in enumerate(annotations) for text in a.captions[:last]]
    if not rows:
        raise UserError("the test split has no captions: retrieval cannot be evaluated on it")
    return Queries([text for text, _ in rows], np.array([row for _, row in rows]))


def _fits(annotations: list[Annotation], captions: str) -> list[frozenset[str]]:
    last = None if captions == "all" else 1
    return [
        fits
        for a in annotations
        for fits in (a.fits or (frozenset(),) * len(a.captions))[:last]
    ]  # fmt: skip


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Bool mask of each row's `count` highest scores (all if 0)."""
    if count == 0 or count >= scores.shape[1]:
        return np.ones(scores.shape, bool)
    best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, best, True, axis=1)
    return chosen


def question_answering(
    scorer: Scorer, videos: EncodedVideos, annotations: list[Annotation], tokenizer: Tokenizer,
    answers: dict[str, int], train_labels: np.ndarray, *, max_len: int,
) -> dict[str, Any]:  # fmt: skip
    """Top-1 accuracy over all questions, beside that of always giving the most frequent training answer.

    Args:
        answers: answer -> class.
        train_labels: int `[M]`, classes of the training questions.
    """
    rows = [(row, question) for row, a in enumerate(annotations) for question in a.questions]
    if not rows:
        raise UserError("the test split has no questions: QA cannot be evaluated on it")
    video = np.array([row for row, _ in rows])
    ids, mask = encode_all([question.question for _, question in rows], tokenizer, max_len)
    logits = scorer.pairs(ids, mask, videos, np.arange(len(rows)), video, head="answer")
    predicted = np.where(videos.valid[video], logits.argmax(axis=1), -1)
    labels = np.array([answers.get(question.answer, -1) for _, question in rows])
    kinds = [question.kind for _, question in rows]
    return metrics.qa_metrics(predicted, labels, metrics.majority_answer(train_labels), kinds if any(kinds) else None)


def multiple_choice(
    scorer: Scorer, videos: EncodedVideos, annotations: list[Annotation], tokenizer: Tokenizer, *, max_len: int
) -> dict[str, Any]:
    """Accuracy of picking the option with the highest matching score."""
    rows = [row for row, a in enumerate(annotations) if a.options]
    if not rows:
        raise UserError("the test split has no options: multiple choice cannot be evaluated on it")
    most = max(len(annotations[row].options) for row in rows)
    options = [(row, slot, text) for row in rows for slot, text in enumerate(annotations[row].options)]
    ids, mask = encode_all([text for _, _, text in options], tokenizer, max_len)
    video = np.array([row for row, _, _ in options])
    flat = scorer.pairs(ids, mask, videos, np.arange(len(options)), video)
    scores = np.full((len(annotations), most), -np.inf)
    scores[video, [slot for _, slot, _ in options]] = np.where(videos.valid[video], flat, -np.inf)
    return metrics.choice_metrics(scores[rows], np.array([annotations[row].option_answer for row in rows]))
