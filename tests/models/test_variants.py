"""The optional parts of the network: P3E's own cross branch, and the temporal encoder."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from snp_jax.convert.snp import map_snp
from snp_jax.models.bert import BertConfig
from snp_jax.models.network import Network
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.snp import SNP, SNPConfig
from snp_jax.models.temporal import TemporalConfig

BERT = BertConfig(vocab_size=20, width=16, layers=1, heads=2, mlp_width=32, max_positions=8)
PVT = PVTConfig((8, 8, 16, 16), (1,) * 4, (1,) * 4, (2,) * 4)


def random_params(model):
    """Parameters of a network for two clips, drawn without compiling an initialiser."""
    rng, frames, ids = np.random.default_rng(0), jnp.zeros((1, 2, 32, 32, 3)), jnp.zeros((1, 4), jnp.int32)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), frames, jnp.ones((1, 2), bool), ids, jnp.ones((1, 4), bool), num_clips=2)[
            "params"
        ]
    )
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


def test_p3e_shares_nothing_between_its_branches():
    model = SNP(SNPConfig(BERT, PVT, sep_id=3, cross_layers=2))
    params = random_params(model)
    assert set(params["cross_encoder"]) == {"layer0", "layer1"} and set(params["encoder"]) == {"layer0"}
    ids, mask, tokens = jnp.asarray([[1, 5, 6, 3]]), jnp.ones((1, 4), bool), jnp.ones((1, 2, 16))

    def objective(params):
        net = Network(model, params)
        text = net.text(ids, mask)
        cross = net.cross(net.raw_caption(text, ids, mask), net.clip_inputs(tokens, jnp.ones((1, 2), bool)))
        return jnp.stack([text.sequence.sum() ** 2, cross.pooled.sum() + net.head("cross_word_logits", cross.sequence).sum()])

    text, cross = (jax.tree.map(lambda leaf, i=i: leaf[i], jax.jit(jax.jacrev(objective))(params)) for i in range(2))
    used = lambda part: any(leaf.any() for leaf in jax.tree.leaves(part))  # noqa: E731
    assert used(text["encoder"]) and not used(text["cross_encoder"]) and not used(text["cross_embeddings"])
    assert used(cross["cross_encoder"]) and used(cross["cross_embeddings"]["word"]) and used(cross["cross_words"])
    assert not used(cross["encoder"]) and not used(cross["embeddings"])


def test_every_optional_parameter_has_a_foreign_name():
    model = SNP(SNPConfig(BERT, PVT, sep_id=3, cross_layers=2, itm=True, num_answers=4, temporal=TemporalConfig(1, 6, 3)))
    leaves = jax.tree_util.tree_leaves_with_path(random_params(model))
    ours = sorted(jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves)
    assert sorted(rule.path for rule in map_snp(model.config).values()) == ours


def test_temporal_encoder_sees_order_but_no_padding():
    model = SNP(SNPConfig(BERT, PVT, sep_id=3, temporal=TemporalConfig(layers=2, max_positions=6, max_clips=5)))
    params, rng = random_params(model), np.random.default_rng(1)
    clips, mask = jnp.asarray(rng.normal(size=(2, 3, 16)), jnp.float32), jnp.asarray([[True, True, False], [True] * 3])
    assert set(params["temporal"]["embeddings"]) == {"position", "segment", "norm"}
    assert params["temporal"]["embeddings"]["position"]["embedding"].shape == (6, 16)

    @jax.jit
    def run(clips):
        net = Network(model, params)
        sequence = net.order(clips, mask)
        return sequence, net.head("order_logits", sequence)

    sequence, logits = run(clips)
    assert sequence.shape == (2, 4, 16) and logits.shape == (2, 3, 5) and logits.dtype == jnp.float32
    other = run(clips.at[0, 2].set(9.0))[1]
    np.testing.assert_allclose(other[0, :2], logits[0, :2], rtol=1e-5, atol=1e-6)
    assert not np.allclose(run(clips[:, ::-1])[1][1], logits[1, ::-1], atol=1e-3)
