"""The learning-rate schedule against the release's, and which parameters are decayed or frozen."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.errors import UserError
from snp_jax.models.bert import BertConfig
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.snp import SNP, SNPConfig
from snp_jax.train.optim import (
    DECAY_RULES,
    MUON_RMS,
    OptimOptions,
    check_freeze,
    decay_mask,
    encoder_rate_rules,
    is_decayed,
    learning_rate,
    make_optimizer,
    matrix_axes,
)

CASES = json.loads((Path(__file__).parents[1] / "goldens/lr_schedule.json").read_text())["cases"]


def options(**changes):
    values = {
        "name": "adamw", "learning_rate": 0.1, "weight_decay": 0.5, "beta1": 0.9, "beta2": 0.98, "clip_norm": 1e9,
        "warmup_steps": 0, "warmup_factor": 0.1, "milestones": (), "milestone_factor": 0.1, "decay_rules": DECAY_RULES,
        "rate_rules": encoder_rate_rules(1.0),
    }  # fmt: skip
    return OptimOptions(**(values | changes))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_schedule(case):
    config = case["config"]
    milestones = [epoch * config["epoch_iterations"] for epoch in config["lr_epochs"]] or config["lr_steps"]
    ours = options(
        learning_rate=1.0, warmup_steps=config["warmup_iterations"] if config["use_warmup"] else 0,
        warmup_factor=config["warmup_factor"], milestones=tuple(milestones),
        milestone_factor=config["lr_ratio"],
    )  # fmt: skip
    for step, factor in case["table"]:
        assert float(learning_rate(step, ours)) == pytest.approx(factor, rel=1e-5), step


def test_decayed_parameters_of_the_network():
    bert = BertConfig(vocab_size=20, width=16, layers=1, heads=2, mlp_width=32, max_positions=8)
    visual = PVTConfig((8, 8, 16, 16), (1,) * 4, (1,) * 4, (2,) * 4)
    model = SNP(SNPConfig(bert, visual, sep_id=3, num_answers=4))
    frames, ids = jnp.zeros((1, 1, 32, 32, 3)), jnp.zeros((1, 4), jnp.int32)
    masks = jnp.ones((1, 1), bool), jnp.ones((1, 4), bool)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), frames, masks[0], ids, masks[1], num_clips=1)["params"])
    mask = decay_mask(params, DECAY_RULES)
    for path, decayed in jax.tree_util.tree_leaves_with_path(mask):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert decayed == (name.endswith("kernel") or name == "embeddings/word/embedding"), name
    assert mask["visual"]["stage1"]["block0"]["attn"]["q"] == {"kernel": True, "bias": False}


def test_a_path_without_a_rule_is_an_error():
    with pytest.raises(ValueError, match="'temporal/strange'"):
        is_decayed("temporal/strange", DECAY_RULES)


def test_frozen_batch_norm_never_changes():
    """Neither weight decay nor gradients reach it."""
    names = ("scale", "bias", "mean", "var")
    params = {"bn1": {name: jnp.ones(2) for name in names}, "conv1": {"kernel": jnp.ones((2, 2))}}
    tx = make_optimizer(options())
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert not any(updates["bn1"][name].any() for name in names)
    np.testing.assert_allclose(updates["conv1"]["kernel"], -0.1 * (1 + 0.5), rtol=1e-5)


def test_decay_is_scaled_by_the_rate_and_leaves_biases_alone():
    params = {"fc": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}}
    tx = make_optimizer(options())
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["fc"]["kernel"], -0.1 * 0.5 * 2.0, rtol=1e-6)
    np.testing.assert_array_equal(updates["fc"]["bias"], 0.0)


def test_encoders_may_learn_at_another_rate():
    """Decay included; the cross pooler and the heads keep the full rate."""
    parts = ("encoder", "visual", "cross_pooler", "match_fc1")
    params = {part: {"kernel": jnp.full((2, 2), 2.0)} for part in parts}
    gradients = jax.tree.map(jnp.ones_like, params)
    updates = {}
    for factor in (1.0, 0.25):
        tx = make_optimizer(options(rate_rules=encoder_rate_rules(factor)))
        updates[factor], _ = tx.update(gradients, tx.init(params), params)
    for part, factor in zip(parts, (0.25, 0.25, 1.0, 1.0), strict=True):
        np.testing.assert_allclose(updates[0.25][part]["kernel"], factor * updates[1.0][part]["kernel"], rtol=1e-6)


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_adam():
    params = {
        "layer": {"kernel": jnp.ones((6, 4)), "bias": jnp.zeros(4)},
        "proj": {"kernel": jnp.ones((2, 2, 3, 8))},
        "dwconv": {"kernel": jnp.ones((3, 3, 1, 4))},
        "match_fc2": {"kernel": jnp.ones((4, 1))},
        "word": {"embedding": jnp.ones((10, 4))},
    }
    assert [name for name, axes in matrix_axes(params, ()).items() if axes.get("kernel") is not None] == ["layer", "proj"]
    gradients = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)
    tx = make_optimizer(options(name="muon", weight_decay=0.0))
    updates = jax.jit(lambda g, p: tx.update(g, tx.init(p), p)[0])(gradients, params)
    for name in ("layer", "proj"):
        update = updates[name]["kernel"]
        singular = np.linalg.svd(update.reshape(-1, update.shape[-1]), compute_uv=False)
        assert singular.max() / singular.min() < 1.8  # of the gradient: above 2.5
        assert float(jnp.sqrt(jnp.mean(update**2))) == pytest.approx(0.1 * MUON_RMS, rel=0.4)
    for name, leaf in (("dwconv", "kernel"), ("match_fc2", "kernel"), ("word", "embedding"), ("layer", "bias")):
        size = float(jnp.abs(updates[name][leaf]).max())  # Adam's first step has one size; with Nesterov it exceeds the rate
        assert 0.1 <= size < 0.2
        np.testing.assert_allclose(updates[name][leaf], -size * jnp.sign(gradients[name][leaf]), rtol=1e-3)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_frozen_parts_keep_their_weights(name):
    """Neither their gradient nor decay moves them."""
    params = {part: {"kernel": jnp.ones((4, 3))} for part in ("visual", "encoder")}
    tx = make_optimizer(options(name=name, freeze=("visual",)))
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert not updates["visual"]["kernel"].any() and updates["encoder"]["kernel"].all()


def test_freezing_a_part_that_is_none_is_an_error():
    with pytest.raises(UserError, match=r"config.optim.freeze: the model has no part 'vision'; it has encoder, visual"):
        check_freeze(("vision",), {"visual": {}, "encoder": {}})
