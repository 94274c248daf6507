"""Metrics on matrices worked out by hand, against a slow oracle, and against the authors' numbers."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from snp_jax.eval.metrics import (
    both_directions,
    chance_level,
    choice_metrics,
    in_batch_metrics,
    majority_answer,
    positive_pairs,
    qa_metrics,
    ranks,
    recall_metrics,
    rerank,
)

GOLDENS = Path(os.environ.get("SNP_GOLDENS", Path(__file__).resolve().parents[3] / "shared" / "goldens"))
BROKEN = -np.inf


def only(columns: list[int], size: int) -> np.ndarray:
    """One right candidate per query."""
    return np.eye(size, dtype=bool)[columns]


def test_positions_by_hand():
    scores = np.array([[9, 5, 1], [9, 5, 1], [9, 5, 1]], np.float32)
    np.testing.assert_array_equal(ranks(scores, only([0, 1, 2], 3)), [1, 2, 3])


def test_ties_take_the_average_position():
    scores = np.array([[7, 7, 1, 0], [7, 5, 5, 5], [7, 5, 5, 0]], np.float32)
    np.testing.assert_array_equal(ranks(scores, only([1, 2, 0], 4)), [1.5, 3, 1])


def test_ties_by_index_follow_the_order_of_the_data():
    scores = np.array([[7, 7, 1, 0], [7, 5, 5, 5], [7, 5, 5, 0], [3, 3, 3, 3]], np.float32)
    np.testing.assert_array_equal(ranks(scores, only([1, 2, 0, 0], 4), ties="index"), [2, 3, 1, 1])
    two = np.array([[0, 0, 1, 1]], bool)
    np.testing.assert_array_equal(ranks(scores[3:], two, ties="index"), [3])
    assert recall_metrics(np.zeros((9, 9), np.float32), np.eye(9, dtype=bool), ties="index")["r1"] == pytest.approx(100 / 9)


def test_in_batch_metrics_list_every_tied_place():
    scores = np.array([[2, 2, 0], [0, 3, 1], [5, 5, 5]], np.float32)
    # Places of the right score: 1 and 2; 1; 1, 2 and 3.
    assert in_batch_metrics(scores) == {"r1": 50.0, "r5": 100.0, "r10": 100.0, "mdr": 1.0}


def test_a_tie_between_right_candidates_costs_nothing():
    scores = np.array([[7, 7, 1, 0], [7, 7, 7, 0]], np.float32)
    positives = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
    # Second row: the wrong one of three is first, second or third; a right one is first in two orders of
    # three.
    np.testing.assert_allclose(ranks(scores, positives), [1, 4 / 3])


def test_ranks_are_the_mean_over_all_orders_of_ties():
    rng = np.random.default_rng(0)
    for _ in range(30):
        scores = rng.integers(0, 3, (1, 5)).astype(np.float32)
        positives = rng.random((1, 5)) < 0.4
        positives[0, rng.integers(5)] = True
        found = []
        for order in itertools.permutations(range(5)):
            placed = sorted(order, key=lambda column: -scores[0, column])  # stable: ties stay in this order
            found.append(next(place for place, column in enumerate(placed, 1) if positives[0, column]))
        np.testing.assert_allclose(ranks(scores, positives), [np.mean(found)])


def test_a_constant_matrix_scores_at_chance():
    result = recall_metrics(np.zeros((100, 100), np.float32), np.eye(100, dtype=bool))
    assert result == {"r1": 0, "r5": 0, "r10": 0, "mdr": 50.5}
    assert chance_level(100) == {"r1": 1, "r5": 5, "r10": 10, "mdr": 50.5}
    assert chance_level(4)["r10"] == 100


def test_best_of_several_right_candidates_counts():
    scores = np.array([[1, 9, 5, 7]], np.float32)
    np.testing.assert_array_equal(ranks(scores, np.array([[1, 0, 1, 1]], bool)), [2])


def test_broken_videos_are_last():
    scores = np.array([[BROKEN, 1, 2], [BROKEN, BROKEN, BROKEN], [BROKEN, 1, np.nan]], np.float32)
    np.testing.assert_array_equal(ranks(scores, only([0, 0, 2], 3)), [3, 3, 3])
    np.testing.assert_array_equal(ranks(scores, only([1, 1, 1], 3)), [2, 3, 1])


def test_recall_and_median_by_hand():
    # Ranks 1, 2, 6, 11 of 12 candidates.
    scores = np.tile(-np.arange(12, dtype=np.float32), (4, 1))
    result = recall_metrics(scores, only([0, 1, 5, 10], 12))
    assert result == {"r1": 25, "r5": 50, "r10": 75, "mdr": 4}


def test_both_directions():
    scores = np.array([[3, 9], [2, 1], [8, 0]], np.float32)  # three texts, two videos
    positives = np.array([[1, 0], [0, 1], [1, 0]], bool)
    result = both_directions(scores, positives)
    assert result["t2v"] == {"r1": pytest.approx(100 / 3), "r5": 100, "r10": 100, "mdr": 2}
    assert result["v2t"] == {"r1": 50, "r5": 100, "r10": 100, "mdr": 1.5}


def test_queries_without_a_right_candidate_are_refused():
    with pytest.raises(ValueError, match="query 1"):
        recall_metrics(np.zeros((2, 2), np.float32), np.array([[1, 0], [0, 0]], bool))
    with pytest.raises(ValueError, match="equal matrices"):
        recall_metrics(np.zeros((2, 3), np.float32), np.eye(2, dtype=bool))


TEXTS = ["a dog", "a cat", "a dog", "a bird"]
OWN = ["v0", "v1", "v2", "v2"]
VIDEOS = ["v0", "v1", "v2"]


@pytest.mark.parametrize(
    ("duplicates", "expected"),
    [
        ("strict", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]),
        ("any", [[1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 0, 1]]),
        ("fits", [[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]]),
    ],
)
def test_positive_pairs(duplicates, expected):
    fits = [set(), {"v0"}, set(), {"v0", "v1", "elsewhere"}]
    found = positive_pairs(TEXTS, OWN, VIDEOS, duplicates=duplicates, fits=fits)
    np.testing.assert_array_equal(found, np.array(expected, bool))


def test_positive_pairs_refuses_what_it_cannot_place():
    with pytest.raises(ValueError, match="'v9'"):
        positive_pairs(["a"], ["v9"], VIDEOS)
    with pytest.raises(ValueError, match="needs one collection"):
        positive_pairs(["a"], ["v0"], VIDEOS, duplicates="fits")
    with pytest.raises(ValueError, match="duplicates must be"):
        positive_pairs(["a"], ["v0"], VIDEOS, duplicates="all")


def test_rerank_puts_scored_candidates_first():
    nan = np.nan
    stage1 = np.array([[5, 4, 3, 2, BROKEN], [1, 1, 9, 0, 0]], np.float32)
    stage2 = np.array([[-7, -3, nan, nan, nan], [nan, nan, 0.5, 0.5, BROKEN]], np.float32)
    order = rerank(stage1, stage2)
    assert np.argsort(-order[0], kind="stable").tolist() == [1, 0, 2, 3, 4]
    assert order[1, 2] == order[1, 3] > order[1, 0] == order[1, 1] > order[1, 4] == BROKEN
    assert order[0, 4] == BROKEN


def test_rerank_keeps_close_scores_apart_and_agrees_with_full_stage2():
    rng = np.random.default_rng(1)
    stage1 = rng.normal(size=(6, 8)).astype(np.float32)
    stage2 = (1e4 + rng.normal(size=(6, 8))).astype(np.float32)
    stage2[0, :2] = [1e-30, 2e-30]
    positives = np.eye(6, 8, dtype=bool)
    np.testing.assert_array_equal(ranks(rerank(stage1, stage2), positives), ranks(stage2, positives))
    np.testing.assert_array_equal(ranks(rerank(stage1, np.full_like(stage2, np.nan)), positives), ranks(stage1, positives))
    np.testing.assert_array_equal(rerank(stage1, stage2).T, rerank(stage1.T, stage2.T))


def test_question_answering_by_hand():
    labels = np.array([0, 1, 2, 0, -1])
    predicted = np.array([0, 1, 0, -1, -1])  # the last two videos are broken; -1 is never right
    result = qa_metrics(predicted, labels, majority=0, kinds=["colour", "colour", "count", "count", ""])
    assert result["accuracy"] == 40 and result["majority_baseline"] == 40 and result["questions"] == 5
    assert result["by_kind"] == {"colour": 100, "count": 0}
    assert "by_kind" not in qa_metrics(predicted, labels, majority=0)


def test_majority_answer_ignores_unknown_answers():
    assert majority_answer(np.array([-1, -1, -1, 4, 2, 4])) == 4
    with pytest.raises(ValueError, match="no training question"):
        majority_answer(np.array([-1]))


def test_choice_by_hand():
    scores = np.array([[1, 3, 2], [1, 3, 2], [5, 5, 0], [BROKEN] * 3, [np.nan, 1, 0]], np.float32)
    result = choice_metrics(scores, np.array([1, 0, 0, 0, 1]))
    assert result == {"accuracy": pytest.approx(100 * (1 + 0 + 0.5 + 0 + 1) / 5), "questions": 5}


def test_choice_with_equal_scores_is_chance():
    assert choice_metrics(np.zeros((10, 5), np.float32), np.arange(10) % 5)["accuracy"] == pytest.approx(20)


def test_no_questions_are_an_error():
    with pytest.raises(ValueError, match="no questions"):
        qa_metrics(np.zeros(0, int), np.zeros(0, int), 0)
    with pytest.raises(ValueError, match="no questions"):
        choice_metrics(np.zeros((0, 5)), np.zeros(0, int))


@pytest.mark.parametrize("name", ["metrics", "metrics_ties"])
def test_authors_numbers(name):
    """Where nothing ties (the authors break ties by index) the release's global recall is ours."""
    path = GOLDENS / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no reference numbers at {path}; set SNP_GOLDENS to their folder")
    golden = np.load(path)
    scores = golden["in/sim"]
    positives = only(golden["in/t2v"].tolist(), scores.shape[1])
    if any(len(np.unique(row)) < len(row) for row in (*scores, *scores.T)):
        pytest.skip("the matrix has ties, which the authors break by index")
    for direction, result in both_directions(scores, positives).items():
        for ours, theirs in (("r1", "r@1"), ("r5", "r@5"), ("r10", "r@10")):
            assert result[ours] == pytest.approx(100 * float(golden[f"out/{direction}-{theirs}"]), abs=1e-4)
        assert result["mdr"] == float(golden[f"out/{direction}-mr"])


def test_ties_by_index():
    """The release: of equal scores the first candidate wins, whoever it is."""
    scores = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [2.0, 1.0, 1.0], [-np.inf, -np.inf, 0.0]])
    positives = np.array([[0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0]], bool)
    np.testing.assert_array_equal(ranks(scores, positives, ties="index"), [2, 1, 3, 3])
    np.testing.assert_array_equal(ranks(scores, positives), [1.5, 4 / 3, 2.5, 3])
