"""The chunked form against the whole matrix, and how much memory it needs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.objectives import contrast, matching
from snp_jax.objectives.contrast import Sides

PAIRS, CLIPS, WORDS, WIDTH = 7, 3, 2, 5
FORMS = {"texts": (matching.text_clip_similarity, (WIDTH,)), "words": (matching.word_clip_similarity, (WORDS, WIDTH))}


@pytest.mark.parametrize("anchor", ["middle", "bag"])
@pytest.mark.parametrize("form", FORMS)
def test_chunks_give_the_loss_and_the_gradients_of_the_whole_matrix(form, anchor):
    similarity, shape = FORMS[form]
    rng = np.random.default_rng(0)
    texts = jnp.asarray(rng.normal(size=(PAIRS, *shape)).astype(np.float32))
    clips = jnp.asarray(rng.normal(size=(PAIRS, CLIPS, WIDTH)).astype(np.float32))
    mask, valid = jnp.ones((PAIRS, CLIPS), bool), jnp.arange(PAIRS) != 4

    def whole(texts, clips):
        return matching.mil_nce(similarity(texts, clips), valid, anchor=anchor)[0]

    def in_chunks(texts, clips, chunk):
        sides = Sides(texts, clips, mask)
        losses = contrast.contrast(similarity, sides, sides, jnp.arange(PAIRS), valid, anchor=anchor, chunk=chunk)
        return matching.summed(losses, valid)[0]

    expected = jax.value_and_grad(whole, argnums=(0, 1))(texts, clips)
    for chunk in (0, 3):
        found = jax.jit(jax.value_and_grad(in_chunks, argnums=(0, 1)), static_argnums=2)(texts, clips, chunk)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    pooled = matching.pool_clips(similarity(texts, clips), mask)
    sides = Sides(texts, clips, mask)
    np.testing.assert_allclose(contrast.pooled_rows(similarity, texts, sides, chunk=3), pooled, rtol=1e-5)
    np.testing.assert_allclose(contrast.pooled_columns(similarity, sides, texts, chunk=3), pooled.T, rtol=1e-5)


def test_a_batch_of_8192_pairs_with_4_clips_needs_the_memory_of_a_chunk():
    """Compiled, not run. The matrices alone are 1 and 3 GiB, and the backward pass needs several."""
    pairs, clips, width = 8192, 4, 768

    def loss(texts, words, features, chunk):
        mask, valid, own = jnp.ones((pairs, clips), bool), jnp.ones(pairs, bool), jnp.arange(pairs)
        total = 0.0
        for similarity, side in ((matching.text_clip_similarity, texts), (matching.word_clip_similarity, words)):
            sides = Sides(side, features, mask)
            total += contrast.contrast(similarity, sides, sides, own, valid, anchor="middle", chunk=chunk).sum()
        return total

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((pairs, width), (pairs, 3, width), (pairs, clips, width))]
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=3).lower(*shapes, 512).compile()
    features = sum(np.prod(shape.shape) for shape in shapes) * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 2**30 + 4 * features
