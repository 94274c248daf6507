"""Sampled and mined negatives, and the weights of pairs, against slow, obvious NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.objectives import matching, mining
from snp_jax.objectives.mining import Similarities


def whole(similarity, valid):
    """Similarities of a batch that is all here."""
    similarity, valid = jnp.asarray(similarity), jnp.asarray(valid)
    return Similarities(similarity, similarity.T, jnp.arange(len(valid)), valid)


def draw(key, similarity, valid, count, temperature):
    keys = jax.random.split(key, (2, len(valid)))
    return mining.draw_negatives((keys[0], keys[1]), whole(similarity, valid), count, temperature)


def test_all_sampled_negatives_give_the_full_loss():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(5, 5)).astype(np.float32)
    valid = jnp.asarray([True, True, True, False, True])
    negatives = draw(jax.random.key(0), scores, valid, 4, 0.1)
    rows = np.arange(5)[:, None]
    total, count = mining.sampled_nce(
        jnp.asarray(np.diagonal(scores)),
        jnp.asarray(scores[rows, negatives.videos]),
        jnp.asarray(scores[negatives.texts, rows]),
        negatives,
        valid,
    )
    expected, expected_count = matching.mil_nce(jnp.asarray(scores)[..., None], valid)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert count == expected_count == 4


def test_drawn_negatives_are_others_distinct_and_the_most_similar_when_cold():
    similarity = jnp.asarray(np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32))
    negatives = draw(jax.random.key(1), similarity, jnp.ones(6, bool), 2, 1e-4)
    for b in range(6):
        row, column = np.array(similarity[b]), np.array(similarity[:, b])
        row[b] = column[b] = -np.inf
        assert set(np.asarray(negatives.videos[b])) == set(np.argsort(-row)[:2])
        assert set(np.asarray(negatives.texts[b])) == set(np.argsort(-column)[:2])


def test_warm_draw_is_uniform_over_the_other_pairs():
    similarity = jnp.asarray(np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32))
    keys = jax.random.split(jax.random.key(2), 3000)
    drawn = jax.vmap(lambda key: draw(key, similarity, jnp.ones(4, bool), 1, 1e4).videos[0, 0])
    share = np.bincount(np.asarray(drawn(keys)), minlength=4) / 3000
    np.testing.assert_allclose(share, [0, 1 / 3, 1 / 3, 1 / 3], atol=0.04)


@pytest.mark.parametrize("rule", ["nearest", "top_k"])
def test_mined_negatives_are_the_hardest_valid_others(rule):
    similarity = np.random.default_rng(4).normal(size=(6, 6)).astype(np.float32)
    valid = np.array([True, True, True, False, True, True])
    mined = mining.mine_negatives(whole(similarity, valid), 3, rule)

    def hardest(row, own):
        others = [i for i in range(6) if valid[i] and i != own]
        eligible = {"nearest": lambda i: abs(row[i] - row[own]), "top_k": lambda i: -row[i]}[rule]
        return set(sorted(others, key=eligible)[:3])

    for b in np.flatnonzero(valid):
        assert set(np.asarray(mined.videos[b])) == hardest(similarity[b], b)
        assert set(np.asarray(mined.texts[b])) == hardest(similarity[:, b], b)
    assert np.asarray(mined.videos_mask)[valid].all() and not np.asarray(mined.videos_mask)[~valid].any()


def test_mined_columns_hold_the_positive_on_the_diagonal_and_among_the_others():
    similarity = np.random.default_rng(5).normal(size=(4, 4)).astype(np.float32)
    columns = np.asarray(mining.mine_columns(whole(similarity, np.ones(4, bool)), 4, "nearest"))
    for b in range(4):
        order = np.argsort(np.abs(similarity[b] - similarity[b, b]), kind="stable")
        order[b] = b
        np.testing.assert_array_equal(columns[b], order)
    assert (columns == np.arange(4)[:, None]).sum() > 4  # listed twice: the release's quirk


def test_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="rule"):
        mining.closeness(jnp.zeros((2, 2)), jnp.arange(2), "median")


def test_median_weights():
    positive, valid = jnp.asarray([0.0, 1.0, 2.0, 9.0, 99.0]), jnp.asarray([True, True, True, True, False])
    # Mean 3, least 0: only the score 9 is above the mean, and gets 3 / 9.
    np.testing.assert_allclose(mining.median_weights(positive, valid), [1, 1, 1, 1 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(mining.median_weights(jnp.asarray([0.0, 0.0, 0.0, 0.0, 0.0, 9.0]), jnp.ones(6, bool))[-1], 0.2)
    np.testing.assert_array_equal(mining.median_weights(jnp.ones(3), jnp.ones(3, bool)), 1.0)
    assert not np.isnan(np.asarray(mining.median_weights(positive, jnp.zeros(5, bool)))).any()
