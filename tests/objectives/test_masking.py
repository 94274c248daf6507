"""Masking rules: who may be masked, how many, and with what; loss against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.objectives import masking

VOCAB, MASK_ID, LENGTH = 40, 4, 16
SPECIAL = (0, 1, 2, 3, 4)
WORDS = masking.WordArrays(
    significant=jnp.arange(VOCAB) >= 30,
    significant_ids=jnp.arange(30, VOCAB, dtype=jnp.int32),
    lemma_ids=jnp.stack([jnp.arange(VOCAB), jnp.where(jnp.arange(VOCAB) == 30, 20, -1)], axis=1).astype(jnp.int32),
    lemma_count=jnp.where(jnp.arange(VOCAB) == 30, 2, 1).astype(jnp.int32),
)


def captions(rows: int, tokens: int, low: int = 5, high: int = VOCAB, seed: int = 0):
    ids = np.zeros((rows, LENGTH), np.int32)
    ids[:, 0], ids[:, tokens + 1] = 2, 3
    ids[:, 1 : tokens + 1] = np.random.default_rng(seed).integers(low, high, (rows, tokens))
    mask = np.arange(LENGTH)[None, :] < tokens + 2
    mask = np.repeat(mask, rows, axis=0)
    ids, mask = jnp.asarray(ids), jnp.asarray(mask)
    return ids, masking.special_free(ids, mask, SPECIAL)


def check_labels(masked, ids, maskable):
    labelled = np.asarray(masked.labels) != masking.IGNORE
    assert not (labelled & ~np.asarray(maskable)).any()
    np.testing.assert_array_equal(np.asarray(masked.labels)[labelled], np.asarray(ids)[labelled])
    np.testing.assert_array_equal(np.asarray(masked.ids)[~labelled], np.asarray(ids)[~labelled])
    return labelled


@pytest.mark.parametrize("tokens,expected", [(0, 0), (1, 0), (2, 1), (6, 1), (9, 2), (10, 2), (20, 3), (28, 4)])
def test_how_many_tokens_are_masked(tokens, expected):
    assert masking.masked_token_count(tokens, 0.15) == expected


def test_mlm_masks_its_share_of_caption_tokens_by_the_80_10_10_rule():
    ids, maskable = captions(4000, 14)
    masked = masking.mask_any(jax.random.key(0), ids, maskable, ratio=0.15, vocab_size=VOCAB, mask_id=MASK_ID)
    labelled = check_labels(masked, ids, maskable)
    assert labelled.sum() / maskable.sum() == pytest.approx(0.15, abs=0.01)
    new = np.asarray(masked.ids)[labelled]
    kept = new == np.asarray(ids)[labelled]
    assert (new == MASK_ID).mean() == pytest.approx(0.8 + 0.1 / VOCAB, abs=0.02)
    assert kept.mean() == pytest.approx(0.1 + 0.1 / VOCAB, abs=0.02)


def test_mssm_takes_significant_tokens_first_and_then_others():
    ids, maskable = captions(500, 14)  # wants floor(2.1) = 2
    masked = masking.mask_significant(jax.random.key(1), ids, maskable, WORDS, ratio=0.15, mask_id=MASK_ID)
    labelled = check_labels(masked, ids, maskable)
    np.testing.assert_array_equal(labelled.sum(axis=1), 2)
    significant = np.asarray(WORDS.significant)[np.asarray(ids)] & np.asarray(maskable)
    chosen_significant = (labelled & significant).sum(axis=1)
    np.testing.assert_array_equal(chosen_significant, np.minimum(significant.sum(axis=1), 2))


def test_mssm_draws_among_the_significant_tokens():
    ids, maskable = captions(1, 14, low=30)
    keys = jax.random.split(jax.random.key(2), 400)
    draw = jax.vmap(lambda key: masking.mask_significant(key, ids, maskable, WORDS, ratio=0.15, mask_id=MASK_ID).labels[0])
    share = (np.asarray(draw(keys)) != masking.IGNORE).mean(axis=0)[1:15]
    np.testing.assert_allclose(share, 2 / 14, atol=0.07)


def test_mssm_replaces_by_significant_words_or_their_lemma_siblings():
    ids, maskable = captions(5000, 14, low=5, high=10)
    masked = masking.mask_significant(jax.random.key(3), ids, maskable, WORDS, ratio=0.15, mask_id=MASK_ID)
    labelled = check_labels(masked, ids, maskable)
    new = np.asarray(masked.ids)[labelled & (np.asarray(masked.ids) != np.asarray(ids))]
    replaced = new[new != MASK_ID]
    assert set(replaced) == {20, *range(30, VOCAB)}  # 20 only as the sibling of 30
    assert len(replaced) / labelled.sum() == pytest.approx(0.1, abs=0.02)


def test_attentive_masking_follows_importance_and_always_writes_mask():
    ids, maskable = captions(2000, 14)
    importance = jnp.zeros(ids.shape).at[:, 3].set(30.0).at[:, 7].set(10.0).at[:, 0].set(1e6)
    masked = masking.mask_attended(
        jax.random.key(4), ids, maskable, importance, ratio=0.08, mask_id=MASK_ID
    )  # one token a caption
    labelled = check_labels(masked, ids, maskable)
    np.testing.assert_array_equal(labelled.sum(axis=1), 1)
    assert (np.asarray(masked.ids)[labelled] == MASK_ID).all()
    assert labelled[:, 3].mean() == pytest.approx(0.75, abs=0.03)
    assert labelled[:, 7].mean() == pytest.approx(0.25, abs=0.03)


def test_attentive_masking_of_a_caption_without_tokens_masks_nothing():
    ids, maskable = captions(2, 0)
    masked = masking.mask_attended(jax.random.key(5), ids, maskable, jnp.ones(ids.shape), ratio=0.15, mask_id=MASK_ID)
    assert (np.asarray(masked.labels) == masking.IGNORE).all()


@pytest.mark.parametrize("significant,expected", [([3, 5, 9], "all"), ([3], "repeats"), ([], "others"), (None, "empty")])
def test_words_for_lvwm(significant, expected):
    tokens = 0 if significant is None else 10
    ids, maskable = captions(300, tokens, low=5, high=10)
    for position in significant or ():
        ids = ids.at[:, position].set(31)
    chosen = np.asarray(masking.choose_words(jax.random.key(6), ids, maskable, WORDS.significant, 3))
    assert chosen.shape == (300, 3)
    if expected == "all":
        np.testing.assert_array_equal(np.sort(chosen, axis=1), np.tile([3, 5, 9], (300, 1)))
    elif expected == "repeats":
        assert (chosen == 3).all()
    elif expected == "others":
        assert (np.diff(np.sort(chosen, axis=1), axis=1) > 0).all() and set(chosen.ravel()) == set(range(1, 11))
    else:
        np.testing.assert_array_equal(chosen, np.tile([0, 1, 2], (300, 1)))


def test_two_significant_words_give_both_and_one_repeat():
    ids, maskable = captions(200, 10, low=5, high=10)
    ids = ids.at[:, 2].set(31).at[:, 6].set(32)
    chosen = np.asarray(masking.choose_words(jax.random.key(7), ids, maskable, WORDS.significant, 3))
    assert all(set(row) == {2, 6} for row in chosen)
    third = chosen[:, 2]
    assert (third == 2).mean() == pytest.approx(0.5, abs=0.12)


def test_masked_word_loss_is_the_mean_over_labels_of_valid_examples():
    rng = np.random.default_rng(8)
    logits = rng.normal(size=(3, 4, 6)).astype(np.float32)
    labels = np.array([[-1, 2, -1, 5], [0, -1, -1, -1], [3, 3, 3, 3]])
    scored = masking.masked_word_loss(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray([True, True, False]))
    log_probability = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = -(log_probability[0, 1, 2] + log_probability[0, 3, 5] + log_probability[1, 0, 0])
    np.testing.assert_allclose(scored["loss"], (expected, 3), rtol=1e-5)
    right = sum(logits[b, i].argmax() == labels[b, i] for b, i in ((0, 1), (0, 3), (1, 0)))
    assert tuple(scored["accuracy"]) == (right, 3)


def test_masked_word_loss_without_labels_is_zero_not_nan():
    scored = masking.masked_word_loss(jnp.ones((2, 3, 5)), jnp.full((2, 3), -1), jnp.ones(2, bool))
    assert tuple(scored["loss"]) == (0, 0)


def test_the_release_s_fallback_masks_low_positions_and_labels_them_mask():
    """Ten words, two to mask: with two significant ones all is as usual; with none, two low positions become [MASK]."""
    ids = jnp.asarray([[1, *range(10, 20), 2]] * 200, jnp.int32)
    maskable = jnp.asarray([[False, *[True] * 10, False]] * 200)
    none, words = jnp.zeros(30, bool), jnp.asarray([18, 19])
    tables = masking.WordArrays(none, words, jnp.full((30, 1), -1), jnp.zeros(30, jnp.int32))
    masked = masking.mask_significant_antmmf(jax.random.key(0), ids, maskable, tables, ratio=0.15, mask_id=4)
    told = np.asarray(masked.labels) != masking.IGNORE
    assert (told.sum(axis=1) == 2).all() and (np.asarray(masked.labels)[told] == 4).all()
    assert (np.asarray(masked.ids)[told] == 4).all() and told[:, 1:11].any(axis=0).all() and not told[:, [0, 11]].any()
    # One significant word, at position 9: it is masked, and the missing one is drawn among positions 0 to 8 (nine others).
    masked = masking.mask_significant_antmmf(
        jax.random.key(1), ids, maskable, tables._replace(significant=none.at[19].set(True)), ratio=0.15, mask_id=4
    )
    labels = np.asarray(masked.labels)
    assert (labels[:, 10] == 19).all() and ((labels[:, 1:10] == 4).sum(axis=1) == 1).all()
    assert set(np.asarray(masked.ids)[:, 10]) <= {4, 18, 19}
    # Enough significant words: the default rule's labels.
    masked = masking.mask_significant_antmmf(
        jax.random.key(2), ids, maskable, tables._replace(significant=none.at[10:14].set(True)), ratio=0.15, mask_id=4
    )
    labels = np.asarray(masked.labels)
    assert ((labels != masking.IGNORE).sum(axis=1) == 2).all() and set(np.unique(labels)) == {masking.IGNORE, 10, 11, 12, 13}


@pytest.mark.parametrize("room", [2, 3, 6])
def test_masked_words_computes_the_same_at_labelled_positions_alone(room):
    """With too little room for a caption's labels, with just enough, and with room for every position."""
    rng = np.random.default_rng(0)
    hidden, table = rng.standard_normal((4, 6, 5)).astype(np.float32), rng.standard_normal((5, 9)).astype(np.float32)
    labels = np.full((4, 6), masking.IGNORE)
    labels[0, [1, 3, 4]], labels[1, 5], labels[2, 0] = [2, 8, 1], 4, 7
    valid = jnp.asarray([True, True, False, True])

    def scored(table, places):
        return masking.masked_words(lambda x: x @ table, jnp.asarray(hidden), jnp.asarray(labels), valid, places)

    def whole(table):
        return masking.masked_word_loss(jnp.asarray(hidden) @ table, jnp.asarray(labels), valid)

    assert whole(table)["loss"][1] == 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), scored(table, room), whole(table))
    gradients = [jax.grad(lambda t, f=f: f(t)["loss"][0])(table) for f in (lambda t: scored(t, room), whole)]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


def test_room_for_labels_holds_what_mssm_and_attentive_masking_take():
    for length in range(3, 129):
        most = max(masking.masked_token_count(words, 0.15) for words in range(length - 1))
        assert max(1, most) <= masking.room_for_labels(length, 0.15) <= length
