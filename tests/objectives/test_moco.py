"""Momentum contrast against slow NumPy: the loss in both directions, the queues at their end, what is left out."""

import jax.numpy as jnp
import numpy as np

from snp_jax.objectives import moco


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_info_nce_equals_the_formula_and_leaves_out_what_is_not_there():
    rng = np.random.default_rng(0)
    text, text_keys, clips, clip_keys = unit(rng, 3, 4), unit(rng, 3, 4), unit(rng, 3, 2, 4), unit(rng, 3, 2, 4)
    text_queue, clip_queue = unit(rng, 5, 4), unit(rng, 6, 4)
    mask, valid = np.array([[True, True], [True, False], [True, True]]), np.array([True, True, False])
    losses = []
    for b in np.flatnonzero(valid):
        real = np.flatnonzero(mask[b])
        to_text = []
        for n in real:
            positive = np.exp(clips[b, n] @ text_keys[b] / 0.5)
            to_text.append(-np.log(positive / (positive + np.exp(text_queue @ clips[b, n] / 0.5).sum())))
        positive = sum(np.exp(text[b] @ clip_keys[b, n] / 0.5) for n in real)
        to_clips = -np.log(positive / (positive + np.exp(clip_queue @ text[b] / 0.5).sum()))
        losses.append((np.mean(to_text) + to_clips) / 2)
    total, count = moco.info_nce(
        *map(jnp.asarray, (text, clips, text_keys, clip_keys, text_queue, clip_queue, mask, valid)), 0.5
    )
    np.testing.assert_allclose((total, count), (sum(losses), 2), rtol=1e-5)


def test_a_queue_wraps_and_skips_what_is_not_real():
    queue, rows = jnp.zeros((5, 1)), jnp.asarray([[1.0], [2.0], [3.0], [4.0]])
    queue, pointer = moco.enqueue(queue, jnp.int32(3), rows, jnp.asarray([True, False, True, True]))
    np.testing.assert_array_equal(queue[:, 0], [4, 0, 0, 1, 3])
    assert pointer == 1
    _, pointer = moco.enqueue(queue, pointer, rows, jnp.ones(4, bool))
    assert pointer == 0 and pointer.dtype == jnp.int32


def test_the_release_clamps_at_the_end():
    queue, rows = jnp.zeros((5, 1)), jnp.asarray([[1.0], [2.0], [3.0]])
    queue, pointer = moco.enqueue_clamped(queue, jnp.int32(3), rows, jnp.ones(3, bool))
    np.testing.assert_array_equal(queue[:, 0], [0, 0, 1, 2, 3])
    assert pointer == 0
    queue, pointer = moco.enqueue_clamped(queue, pointer, rows, jnp.ones(3, bool))
    np.testing.assert_array_equal(queue[:, 0], [1, 2, 3, 2, 3])
    assert pointer == 3


def test_momentum_update():
    keys = moco.momentum_update({"a": jnp.ones(2)}, {"a": jnp.zeros(2)}, 0.9)
    np.testing.assert_allclose(keys["a"], 0.9)
