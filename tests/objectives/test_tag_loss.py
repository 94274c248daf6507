"""Tagging against slow, obvious NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from snp_jax.objectives import tagging


def test_tags_of_a_caption_are_its_wanted_words_once():
    ids = jnp.asarray([[2, 7, 7, 5, 0], [2, 4, 9, 3, 0]], jnp.int32)
    wanted = jnp.asarray([[False, True, True, True, False], [False, False, True, False, False]])
    tags = tagging.caption_tags(ids, wanted, 10)
    assert [np.flatnonzero(row).tolist() for row in tags] == [[5, 7], [9]]


def test_loss_equals_the_divergence_by_loops_and_leaves_videos_without_tags_out():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 12)).astype(np.float32)
    tags = rng.random((5, 12)) < 0.3
    tags[1] = False
    valid = np.array([True, True, True, False, True])
    expected = hits = 0.0
    for b in (0, 2, 4):
        names = np.flatnonzero(tags[b])
        probability = np.exp(logits[b]) / np.exp(logits[b]).sum()
        expected += sum(np.log((1 / len(names)) / probability[n]) / len(names) for n in names)
        hits += len(set(np.argsort(-logits[b])[: len(names)]) & set(names)) / len(names)
    scored = tagging.tag_loss(jnp.asarray(logits), jnp.asarray(tags), jnp.asarray(valid))
    np.testing.assert_allclose(scored["loss"], (expected, 3), rtol=1e-5)
    np.testing.assert_allclose(scored["precision"], (hits, 3), rtol=1e-6)


def test_scores_that_name_the_tags_alone_cost_nothing():
    tags = jnp.asarray([[True, False, True, False]])
    scored = tagging.tag_loss(jnp.where(tags, 50.0, -50.0), tags, jnp.ones(1, bool))
    np.testing.assert_allclose(scored["loss"][0], 0.0, atol=1e-6)
    gradient = jax.grad(lambda x: tagging.tag_loss(x, tags & False, jnp.ones(1, bool))["loss"][0])(jnp.zeros((1, 4)))
    np.testing.assert_array_equal(gradient, 0.0)
