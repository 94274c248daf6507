"""Tagging against slow, obvious NumPy."""

import functools

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
    weight = rng.uniform(0.1, 2.0, size=12).astype(np.float32)
    expected = hits = 0.0
    for b in (0, 2, 4):
        names = np.flatnonzero(tags[b])
        probability = np.exp(logits[b]) / np.exp(logits[b]).sum()
        for n in names:
            share = weight[n] / weight[names].sum()
            expected += share * np.log(share / probability[n])
        hits += len(set(np.argsort(-logits[b])[: len(names)]) & set(names)) / len(names)
    scored = tagging.tag_loss(jnp.asarray(logits), jnp.asarray(tags), jnp.asarray(valid), jnp.asarray(weight))
    np.testing.assert_allclose(scored["loss"], (expected, 3), rtol=1e-5)
    np.testing.assert_allclose(scored["precision"], (hits, 3), rtol=1e-6)


def test_a_tag_weighs_by_the_videos_of_the_batch_that_have_it():
    tags = jnp.asarray([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]], bool)
    valid = jnp.asarray([True, True, False])
    np.testing.assert_allclose(tagging.rarity(tags, valid), [np.log(3 / 2), np.log(3), np.log(3), 0.0], rtol=1e-6)
    alone = tagging.rarity(tags[:1], valid[:1])
    assert (alone[:2] > 0).all(), "a batch of one still has a loss"


def test_weights_of_a_split_batch_are_those_of_the_whole_one():
    """`total` adds up what the parts of the batch count."""
    rng = np.random.default_rng(0)
    tags, valid = jnp.asarray(rng.random((8, 6)) < 0.4), jnp.asarray(rng.random(8) < 0.7)
    total = functools.partial(jax.lax.psum, axis_name="parts")
    parts = jax.vmap(functools.partial(tagging.rarity, total=total), axis_name="parts")(
        tags.reshape(4, 2, 6), valid.reshape(4, 2)
    )
    np.testing.assert_allclose(parts, np.tile(tagging.rarity(tags, valid), (4, 1)), rtol=1e-6)


def test_scores_that_name_the_tags_alone_cost_nothing():
    tags, one = jnp.asarray([[True, False, True, False]]), jnp.ones(1, bool)
    scored = tagging.tag_loss(jnp.where(tags, 50.0, -50.0), tags, one, jnp.ones(4))
    np.testing.assert_allclose(scored["loss"][0], 0.0, atol=1e-6)
    gradient = jax.grad(lambda x: tagging.tag_loss(x, tags & False, one, jnp.zeros(4))["loss"][0])(jnp.zeros((1, 4)))
    np.testing.assert_array_equal(gradient, 0.0)
