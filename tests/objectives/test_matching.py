"""Matching losses against slow, obvious NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.objectives import matching


def slow_mil_nce(scores, valid, anchor):
    """MIL-NCE by loops over pairs, texts and clips, straight from the formula."""
    pairs, _, clips = scores.shape
    losses = []
    for b in range(pairs):
        if not valid[b]:
            continue
        others = [v for v in range(pairs) if valid[v] and v != b]
        texts = [t for t in range(pairs) if valid[t]]
        negatives = sum(np.exp(scores[b, v, n]) for v in others for n in range(clips))
        if anchor == "middle":
            m = clips // 2
            positive = clips * np.exp(scores[b, b, m])
            against_texts = clips * sum(np.exp(scores[t, b, m]) for t in texts)
        else:
            positive = sum(np.exp(scores[b, b, n]) for n in range(clips))
            against_texts = sum(np.exp(scores[t, b, n]) for t in texts for n in range(clips))
        losses.append(-np.log(positive / (against_texts + negatives)))
    return losses


@pytest.mark.parametrize("anchor", ["middle", "bag"])
@pytest.mark.parametrize("clips", [1, 3, 4])
def test_mil_nce_equals_the_formula_and_leaves_invalid_pairs_out(anchor, clips):
    scores = np.random.default_rng(clips).normal(size=(5, 5, clips)).astype(np.float32)
    valid = np.array([True, True, False, True, True])
    expected = slow_mil_nce(scores, valid, anchor)
    scores[2] = np.nan  # an undecodable example may hold anything
    scores[:, 2] = np.inf
    total, count = matching.mil_nce(jnp.asarray(scores), jnp.asarray(valid), anchor=anchor)
    assert count == 4
    np.testing.assert_allclose(total, sum(expected), rtol=1e-5)


def test_mil_nce_of_equal_scores_is_log_2b_minus_1():
    total, count = matching.mil_nce(jnp.zeros((6, 6, 1)), jnp.ones(6, bool))
    np.testing.assert_allclose(total / count, np.log(11), rtol=1e-6)


def test_mil_nce_gradient_is_finite_when_everything_is_invalid():
    scores = jnp.zeros((3, 3, 2))
    gradient = jax.grad(lambda s: matching.mil_nce(s, jnp.zeros(3, bool))[0])(scores)
    np.testing.assert_array_equal(gradient, 0.0)


def test_mil_nce_weights_multiply_each_pair():
    scores = np.random.default_rng(0).normal(size=(4, 4, 2)).astype(np.float32)
    weights = np.array([1.0, 0.0, 2.0, 0.5], np.float32)
    total, _ = matching.mil_nce(jnp.asarray(scores), jnp.ones(4, bool), weights=jnp.asarray(weights))
    np.testing.assert_allclose(total, np.dot(slow_mil_nce(scores, [True] * 4, "middle"), weights), rtol=1e-5)


def test_unknown_anchor_is_refused():
    with pytest.raises(ValueError, match="anchor"):
        matching.mil_nce(jnp.zeros((2, 2, 1)), jnp.ones(2, bool), anchor="first")


def test_word_clip_similarity_is_log_sum_exp_over_words():
    rng = np.random.default_rng(4)
    words, clips = rng.normal(size=(3, 2, 5)), rng.normal(size=(4, 6, 5))
    result = matching.word_clip_similarity(jnp.asarray(words), jnp.asarray(clips))
    assert result.shape == (3, 4, 6)
    expected = np.log(sum(np.exp(words[2, k] @ clips[1, 3]) for k in range(2)))
    np.testing.assert_allclose(result[2, 1, 3], expected, rtol=1e-5)


def test_pool_clips_ignores_missing_clips():
    scores = jnp.asarray([[[1.0, 2.0, 50.0]]])
    pooled = matching.pool_clips(scores, jnp.asarray([[True, True, False]]))
    np.testing.assert_allclose(pooled, [[np.log(np.exp(1) + np.exp(2))]], rtol=1e-6)


def test_choice_loss_counts_unknown_answers_as_wrong_and_skips_invalid():
    logits = jnp.log(jnp.asarray([[0.7, 0.3], [0.6, 0.4], [0.9, 0.1], [0.5, 0.5]]))
    label, valid = jnp.asarray([0, 1, -1, 0]), jnp.asarray([True, True, True, False])
    scored = matching.choice_loss(logits, label, valid)
    np.testing.assert_allclose(scored["loss"], (-np.log(0.7) - np.log(0.4), 2), rtol=1e-6)
    assert tuple(scored["accuracy"]) == (1, 3)


def test_in_batch_recall_counts_ties_by_their_average_position():
    scores = jnp.asarray([[2.0, 1.0, 0.0], [5.0, 5.0, 0.0], [1.0, 1.0, 1.0]])
    hits, count = matching.in_batch_recall(scores, jnp.arange(3), jnp.ones((1, 3), bool))
    assert (hits, count) == (2, 3)  # first wins; second ties with one (average 1.5); third with two (average 2)


def test_clips_that_are_padding_take_no_part():
    """Of an image only the middle of three clips is real; the others hold anything."""
    scores = np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)
    mask = np.ones((4, 3), bool)
    mask[1] = mask[3] = [False, True, False]
    for anchor in ("middle", "bag"):
        masked = matching.real_clips(jnp.asarray(scores), jnp.asarray(mask))
        total, _ = matching.mil_nce(masked, jnp.ones(4, bool), anchor=anchor)
        without = np.where(mask[None], scores, -np.inf)
        np.testing.assert_allclose(total, sum(slow_mil_nce(without, np.ones(4, bool), anchor)), rtol=1e-5)
        gradient = jax.grad(lambda s: matching.mil_nce(matching.real_clips(s, mask), jnp.ones(4, bool), anchor=anchor)[0])  # noqa: B023
        found = np.asarray(gradient(jnp.asarray(scores)))
        assert np.isfinite(found).all() and not found[:, [1, 3], 0].any() and found[:, 0].any()
