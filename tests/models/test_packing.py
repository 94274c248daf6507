"""BERT without padding computes what it computes with padding, and draws dropout by the token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.models import packing
from snp_jax.models.bert import BertConfig, Encoder

LENGTHS, LENGTH, CLIPS, COPIES, WIDTH = np.array([3, 6, 1]), 6, 2, 2, 8


def places_of(lengths, room):
    found = np.flatnonzero(np.arange(LENGTH) < lengths[:, None])
    return np.pad(found, (0, room - len(found)), constant_values=len(lengths) * LENGTH).astype(np.int32)


@pytest.fixture(scope="module")
def pairs():
    """(x, mask, packing) of each caption twice, with clips behind."""
    captions = np.arange(LENGTH) < LENGTHS[:, None]
    mask = np.concatenate([np.tile(captions, (COPIES, 1)), np.ones((len(LENGTHS) * COPIES, CLIPS), bool)], axis=1)
    packed = packing.packing_of(places_of(LENGTHS, 12), captions.shape, copies=COPIES, more=CLIPS)
    x = jax.random.normal(jax.random.key(0), (*mask.shape, WIDTH))
    return x, jnp.asarray(mask), packed


def test_every_real_token_has_one_slot(pairs):
    x, mask, packed = pairs
    slots, places = np.asarray(packed.slots), np.asarray(packed.places)
    for row, column in np.ndindex(*mask.shape):
        slot = slots[row, column]
        assert (slot < len(places)) == bool(mask[row, column])
        if mask[row, column]:
            assert places[slot] == row * mask.shape[1] + column
            assert [int(n[slot]) for n in packed.numbers] == [row, column]
    assert len(places) == COPIES * 12 + COPIES * 3 * CLIPS
    np.testing.assert_array_equal(packing.unpack(packing.pack(x, packed), packed), np.where(mask[..., None], x, 0))


def test_gradients_of_packing_are_those_of_plain_indexing(pairs):
    x, mask, packed = pairs
    weights = jax.random.normal(jax.random.key(1), x.shape)

    def through(x):
        return (jnp.sin(packing.unpack(jnp.cos(packing.pack(x, packed)), packed)) * weights).sum()

    wanted = jax.grad(lambda x: jnp.where(mask[..., None], jnp.sin(jnp.cos(x)) * weights, 0).sum())(x)
    np.testing.assert_allclose(jax.grad(through)(x), wanted, atol=1e-6)


@pytest.mark.parametrize("first_only", [False, True])
def test_the_encoder_computes_the_same_without_padding(first_only, pairs):
    x, mask, packed = pairs
    encoder = Encoder(BertConfig(width=WIDTH, layers=2, heads=2, mlp_width=12, init_std=0.3))
    params = encoder.init(jax.random.key(2), x, mask, deterministic=True)
    real = mask[:, :1] if first_only else mask

    def run(params, x, packing):
        out, _ = encoder.apply(params, x, mask, packing=packing, deterministic=True, first_only=first_only)
        return jnp.where(real[..., None], out, 0)

    def loss(params, x, packing):
        return jnp.sin(3 * run(params, x, packing)).sum()

    np.testing.assert_allclose(run(params, x, packed), run(params, x, None), atol=1e-5)
    wanted, found = (jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x, p) for p in (None, packed))
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale), wanted, found)


def test_a_padded_query_asks_all_tokens_alike(pairs):
    x, mask, packed = pairs
    encoder = Encoder(BertConfig(width=WIDTH, layers=1, heads=2, mlp_width=12))
    params = encoder.init(jax.random.key(2), x, mask, deterministic=True)
    apply = functools.partial(encoder.apply, params, deterministic=True, importance=True)
    _, padded = apply(x[:1, :3], mask[:1, :3])  # a caption of three without any padding
    packed = packing.packing_of(jnp.arange(3), (1, 6))
    _, found = apply(x[:1, :6], mask[:1, :6], packing=packed)
    np.testing.assert_allclose(found[0, :3], padded[0] + 3 * (1 / 3), rtol=1e-5)  # three padded queries
    np.testing.assert_allclose(found[0, 3:], 0, atol=1e-6)


def test_dropout_depends_on_the_token_and_not_on_the_room(pairs):
    x, mask, packed = pairs
    encoder = Encoder(BertConfig(width=WIDTH, layers=1, heads=2, mlp_width=12, init_std=0.3, dropout=0.5))
    params = encoder.init(jax.random.key(2), x, mask, deterministic=True)
    roomy = packing.packing_of(places_of(LENGTHS, 17), (3, LENGTH), copies=COPIES, more=CLIPS)
    run = lambda p, key: encoder.apply(params, x, mask, packing=p, deterministic=False, rngs={"dropout": key})[0]  # noqa: E731
    key = jax.random.key(3)
    np.testing.assert_allclose(run(packed, key), run(roomy, key), atol=1e-5)
    assert np.abs(run(packed, key) - run(packed, jax.random.key(4))).max() > 0.1
    same = jnp.ones_like(x)
    dropped = encoder.apply(params, same, mask, packing=packed, deterministic=False, rngs={"dropout": key})[0]
    tokens = np.asarray(dropped)[np.asarray(mask)].round(4)
    assert len(np.unique(tokens, axis=0)) > len(tokens) // 2  # equal tokens are dropped differently


def test_dropout_is_that_of_padded_tokens(pairs):
    x, mask, packed = pairs
    encoder = Encoder(BertConfig(width=WIDTH, layers=2, heads=2, mlp_width=12, dropout=0.5))
    params = encoder.init(jax.random.key(2), x, mask, deterministic=True)
    run = lambda p: encoder.apply(params, x, mask, packing=p, deterministic=False, rngs={"dropout": jax.random.key(3)})[0]  # noqa: E731
    np.testing.assert_allclose(run(packed)[mask], run(None)[mask], atol=1e-5)
