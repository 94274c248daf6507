"""Parity of BERT with the authors' PyTorch code: embeddings, layers, importance, pooler, gradients."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from snp_jax.convert.bert import map_bert
from snp_jax.convert.rules import apply, invert
from snp_jax.models.bert import BertConfig, Embeddings, Encoder, Pooler

GOLDENS = Path(__file__).parents[1] / "goldens"
CONFIG = BertConfig(vocab_size=200, width=32, layers=2, heads=4, mlp_width=64, max_positions=32)


class Bert(nn.Module):
    """The three parts under the names that `map_bert` gives them; segments per token, as the goldens have them."""

    def setup(self):
        self.embeddings, self.encoder, self.pooler = Embeddings(CONFIG), Encoder(CONFIG), Pooler(CONFIG)

    def embed(self, vectors, segment):
        return self.embeddings(vectors, segment, deterministic=True)

    def __call__(self, ids, segments, mask):
        embedded = self.embed(self.embeddings.words(ids), segments)
        sequence, importance = self.encoder(embedded, mask, deterministic=True, importance=True)
        return embedded, sequence, importance, self.pooler(sequence)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDENS / "bert.npz")


@pytest.fixture(scope="module")
def params(golden):
    state = {name[6:]: golden[name] for name in golden.files if name.startswith("param/")}
    applied = apply(map_bert(CONFIG), state)
    assert not applied.missing and not applied.unused
    return applied.params


def close(got, wanted, tolerance=1e-4):
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_forward_and_gradients(golden, params):
    ids, segments = golden["in/input_ids"], golden["in/token_type_ids"]
    mask = golden["in/attention_mask"].astype(bool)
    assert not mask.all()

    def objective(params):
        outputs = Bert().apply({"params": params}, ids, segments, mask)
        _, sequence, _, pooled = outputs
        value = jnp.sum(sequence * golden["in/cot_seq"]) + jnp.sum(pooled * golden["in/cot_pooled"])
        return value, outputs

    step = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (value, outputs), gradients = step(params)
    names = ("embeddings", "sequence_output", "words_importance", "pooled_output")
    for name, output in zip(names, outputs, strict=True):
        close(output, golden[f"out/{name}"])
    np.testing.assert_allclose(value, golden["out/objective"], rtol=1e-4)
    ours = invert(map_bert(CONFIG), gradients)
    recorded = [name for name in golden.files if name.startswith("grad/")]
    assert len(recorded) == 10
    for name in recorded:
        # PyTorch stops the gradient of the padding word (id 0); ours has one where a padded output is used.
        skip = int(name.endswith("word_embeddings.weight"))
        close(ours[name[5:]][skip:], golden[name][skip:], 1e-3)


def test_embedding_of_given_vectors(golden, params):
    embedded = Bert().apply({"params": params}, golden["in/inputs_embeds"], 1, method="embed")
    close(embedded, golden["out/embeddings_from_vectors"])


def test_width_must_split_into_heads():
    with pytest.raises(ValueError, match="not a multiple of its 5 heads"):
        BertConfig(width=32, heads=5)


def test_first_only_is_the_first_row_of_the_whole_output(golden, params):
    """Output and gradients, of a stack whose last layer computes one row."""
    mask = golden["in/attention_mask"].astype(bool)
    x = np.random.default_rng(0).standard_normal((*mask.shape, CONFIG.width)).astype(np.float32)

    def first(params, x, first_only):
        encoder = Encoder(CONFIG)
        sequence, _ = encoder.apply({"params": params}, x, mask, deterministic=True, first_only=first_only)
        assert sequence.shape[1] == (1 if first_only else mask.shape[1])
        return jnp.square(sequence[:, 0] - 1.0).sum()

    run = jax.jit(jax.value_and_grad(first, argnums=(0, 1)), static_argnums=2)
    one, whole = run(params["encoder"], x, True), run(params["encoder"], x, False)
    # Absolute, too: the gradient of the keys' biases is zero but for rounding.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, whole)
