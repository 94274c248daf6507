"""Retrieval recall, question answering and multiple-choice accuracy: NumPy in, percentages out.

Scores come from the protocols of this package; nothing here knows a model. The rules are those of method.md
section 6.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np

Duplicates = Literal["strict", "fits", "any"]
Ties = Literal["average", "index"]
RECALL_AT = (1, 5, 10)


def positive_pairs(
    texts: Sequence[str],
    text_videos: Sequence[str],
    videos: Sequence[str],
    *,
    duplicates: Duplicates = "strict",
    fits: Sequence[Collection[str]] | None = None,
) -> np.ndarray:
    """Which video is a right answer for which text.

    Args:
      texts: Q captions.
      text_videos: for each the id of the video that it was written for.
      videos: ids of the C candidate videos.
      duplicates: "strict" = that video alone; "fits" = also those in `fits`; "any" = also every video that
        has the same caption (the release's rule).
      fits: for each text the ids of further videos that it describes; ids that are no candidates are ignored.

    Returns: bool [Q, C]; its transpose serves the other direction.

    Raises:
      ValueError: a text's own video is not among the candidates, or an unknown rule.
    """
    columns = {video: i for i, video in enumerate(videos)}
    strangers = [video for video in text_videos if video not in columns]
    if strangers:
        raise ValueError(f"{len(strangers)} texts belong to no candidate video, the first one to {strangers[0]!r}")
    positives = np.zeros((len(texts), len(videos)), bool)
    own = [columns[video] for video in text_videos]
    positives[np.arange(len(texts)), own] = True
    if duplicates == "fits":
        if fits is None or len(fits) != len(texts):
            raise ValueError('duplicates="fits" needs one collection of video ids for each text')
        for row, others in enumerate(fits):
            positives[row, [columns[video] for video in others if video in columns]] = True
    elif duplicates == "any":
        same: dict[str, set[int]] = {}
        for text, column in zip(texts, own, strict=True):
            same.setdefault(text, set()).add(column)
        for row, text in enumerate(texts):
            positives[row, list(same[text])] = True
    elif duplicates != "strict":
        raise ValueError(f'duplicates must be "strict", "fits" or "any", got {duplicates!r}')
    return positives


def ranks(scores: np.ndarray, positives: np.ndarray, *, ties: Ties = "average") -> np.ndarray:
    """Position of each query's best right candidate, counted from 1.

    By default a tie counts the average over the orders of the tied candidates: 1 + (e - 1) / 2 for one right candidate
    among e, in general (e + 1) / (p + 1) for p right ones, so a constant matrix scores at chance and a tie
    between right candidates costs nothing. A right candidate without a score (-inf or NaN: its video is
    broken) is last.

    Args:
      scores: float [Q, C], higher is better.
      positives: bool [Q, C], at least one True in each row.
      ties: "average", or "index": the earlier candidate is first (the release's rule; a constant matrix then
        scores by the order of the data).

    Returns: float64 [Q], in [1, C].
    """
    if scores.shape != positives.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and positives {positives.shape} must be equal matrices")
    if not positives.any(axis=1).all():
        raise ValueError(f"query {int(np.argmin(positives.any(axis=1)))} has no right candidate")
    scores = np.where(np.isnan(scores), -np.inf, scores)
    best = np.where(positives, scores, -np.inf).max(axis=1, keepdims=True)  # [Q, 1]
    tied = scores == best
    ahead = (scores > best).sum(axis=1)
    if ties == "index":
        first = np.argmax(tied & positives, axis=1)
        position = ahead + np.cumsum(tied, axis=1)[np.arange(len(scores)), first].astype(np.float64)
    else:
        position = ahead + (tied.sum(axis=1) + 1) / ((tied & positives).sum(axis=1) + 1)
    return np.where(np.isneginf(best[:, 0]), scores.shape[1], position)


def recall_metrics(scores: np.ndarray, positives: np.ndarray, *, ties: Ties = "average") -> dict[str, float]:
    """Recall at 1, 5, 10 in percent and the median rank of one direction (arguments as for `ranks`)."""
    return _recalls(ranks(scores, positives, ties=ties))


def both_directions(scores: np.ndarray, positives: np.ndarray, *, ties: Ties = "average") -> dict[str, dict[str, float]]:
    """`recall_metrics` of texts x videos: {"t2v": text to video, "v2t": video to text}."""
    return {
        "t2v": recall_metrics(scores, positives, ties=ties),
        "v2t": recall_metrics(scores.T, positives.T, ties=ties),
    }


def in_batch_metrics(scores: np.ndarray) -> dict[str, float]:
    """The release's in-batch metric of a square matrix [B, B] whose diagonal is right; keys as in `recall_metrics`.

    Every place in a row's order whose score equals the right one's counts as a query of its own, so ties add
    queries and the first of them is a hit. The median of an even number is the lower of the middle two.
    """
    ordered = -np.sort(-scores, axis=1)
    _, places = np.nonzero(ordered == np.diagonal(scores)[:, None])
    return {**_recalls(places + 1), "mdr": float(np.sort(places)[(len(places) - 1) // 2] + 1)}


def _recalls(position: np.ndarray) -> dict[str, float]:
    recalls = {f"r{k}": 100.0 * float(np.mean(position <= k)) for k in RECALL_AT}
    return {**recalls, "mdr": float(np.median(position))}


def rerank(stage1: np.ndarray, stage2: np.ndarray) -> np.ndarray:
    """One order from two stages: candidates with a stage-2 score by it, then the others by stage 1.

    Args:
      stage1: float [Q, C] scores of all pairs; -inf = broken.
      stage2: float [Q, C] scores of the chosen pairs; NaN = not scored, -inf = broken.

    Returns: float64 [Q, C], comparable within a row and within a column; only the order means something.
      Ties of a stage stay ties, broken pairs stay -inf.
    """
    scored = ~np.isnan(stage2)
    # Places in the sorted values, not the values: adding an offset to scores could merge close ones.
    values, place1 = np.unique(stage1, return_inverse=True)
    _, place2 = np.unique(np.where(scored, stage2, 0), return_inverse=True)
    order = np.where(scored, len(values) + place2.reshape(stage2.shape), place1.reshape(stage1.shape))
    broken = np.isneginf(np.where(scored, stage2, stage1))
    return np.where(broken, -np.inf, order.astype(np.float64))


def majority_answer(train_labels: np.ndarray) -> int:
    """The most frequent answer id of int [N] training labels (-1 = outside the vocabulary, ignored)."""
    known = train_labels[train_labels >= 0]
    if not len(known):
        raise ValueError("no training question has an answer in the vocabulary")
    return int(np.bincount(known).argmax())


def qa_metrics(
    predicted: np.ndarray, labels: np.ndarray, majority: int, kinds: Sequence[str] | None = None
) -> dict[str, float | int | dict[str, float]]:
    """Accuracy in percent over ALL questions.

    Args:
      predicted: int [Q] answer ids; -1 where the video is broken, which counts as wrong.
      labels: int [Q] right answer ids; -1 = outside the vocabulary, which counts as wrong.
      majority: the id that the baseline always answers (`majority_answer` of the training split).
      kinds: kind of each question ("" = none), for the accuracy per kind.

    Returns: {"accuracy", "majority_baseline", "questions"} and, with kinds, {"by_kind": {kind: accuracy}}.
    """
    if not len(labels):
        raise ValueError("there are no questions to score")
    right = (predicted == labels) & (labels >= 0)
    result: dict[str, float | int | dict[str, float]] = {
        "accuracy": _percent(right),
        "majority_baseline": _percent(labels == majority),
        "questions": len(labels),
    }
    if kinds is not None:
        of_kind = np.asarray(kinds)
        names = sorted({kind for kind in kinds if kind})
        result["by_kind"] = {kind: _percent(right[of_kind == kind]) for kind in names}
    return result


def choice_metrics(scores: np.ndarray, answers: np.ndarray) -> dict[str, float | int]:
    """Multiple choice: how often the right option has the highest score.

    A right option that shares the highest score with others counts as a fraction, so equal scores give
    chance; a question without scores (-inf or NaN: its video is broken) counts as wrong.

    Args:
      scores: float [Q, O].
      answers: int [Q], the right option.

    Returns: {"accuracy" (percent), "questions"}.
    """
    if not len(answers):
        raise ValueError("there are no questions to score")
    scores = np.where(np.isnan(scores), -np.inf, scores)
    best = scores.max(axis=1, keepdims=True)  # [Q, 1]
    highest = (scores == best) & np.isfinite(best)
    credit = highest[np.arange(len(answers)), answers] / np.maximum(highest.sum(axis=1), 1)
    return {"accuracy": _percent(credit), "questions": len(answers)}


def chance_level(gallery: int) -> Mapping[str, float]:
    """What random scores reach on one right candidate among `gallery`: keys as in `recall_metrics`."""
    recalls = {f"r{k}": 100.0 * min(k, gallery) / gallery for k in RECALL_AT}
    return {**recalls, "mdr": (gallery + 1) / 2}


def _percent(hits: np.ndarray) -> float:
    return 100.0 * float(np.mean(hits))
