"""The tasks' losses on a synthetic batch: devices, masked examples, switches, learning."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from steps import Run, make_batch, mesh_of

from snp_jax.data.text import load_tokenizer
from snp_jax.models.network import Network
from snp_jax.train import build, inputs, sharding
from snp_jax.train.state import create_state, init_params


def start(config, devices):
    """(state, step, batch on the devices) of a config."""
    run = Run(config, {"data": devices})
    return create_state(*run.parts), run.step, sharding.put_batch(make_batch(config, run.tokenizer), run.mesh)


def with_tags(tiny_config):
    """Pre-training with every term, "tags" too."""
    config = tiny_config("pretrain")
    config.objective.weights.tags = 1.0
    return config


@pytest.fixture(scope="module")
def pretraining(tiny_config):
    """(compute(batch, number) -> (metrics, first moments) of a step with that number, batch) on one device.

    `compute(batch, number, spoil)` changes every parameter by `spoil` before the step.
    """
    config = with_tags(tiny_config)
    state, step, _ = start(config, 1)

    def compute(batch, number, spoil=jnp.copy):
        fresh = jax.tree.map(jnp.copy, state).replace(step=jnp.int32(number))  # the step donates its state
        fresh = fresh.replace(params=jax.tree.map(spoil, fresh.params))
        after, metrics = step(fresh, sharding.put_batch(batch, mesh_of({"data": 1})))
        return jax.device_get((metrics, optax.tree.get(after.opt_state, "mu")))

    return compute, make_batch(config, load_tokenizer(config.text.tokenizer))


def test_one_device_and_eight_give_the_same_update(pretraining, tiny_config):
    """With dropout and every random draw on. Of the update the first moments are compared, which are 0.1 x the
    gradients: Adam's first step is their sign, also where they are rounding noise."""
    compute, batch = pretraining
    state, step, spread = start(with_tags(tiny_config), 8)
    state, metrics = step(state, spread)
    eight = jax.device_get((metrics, optax.tree.get(state.opt_state, "mu")))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), compute(batch, 0), eight)


@pytest.mark.parametrize("task", ["tagging", "retrieval", pytest.param("qa", marks=pytest.mark.slow), "choice"])
def test_a_task_learns_one_batch(task, tiny_config):
    config = tiny_config(task)
    config.optim.update(learning_rate=1e-2, warmup_steps=0)
    config.model.bert.update(dropout=0.0, attention_dropout=0.0)
    config.model.head_dropout = 0.0
    state, step, batch = start(config, 1)
    losses = []
    for _ in range(15):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0], losses  # temperature 1 bounds retrieval's from below


def test_a_frozen_part_has_no_gradient_and_keeps_its_weights(tiny_config):
    config = tiny_config("qa")
    config.optim.freeze = ("visual", "visual_projection")
    state, step, batch = start(config, 1)
    before = jax.device_get(state.params)
    state, _ = step(state, batch)
    after, moments = jax.device_get((state.params, optax.tree.get(state.opt_state, "mu")))
    for part in config.optim.freeze:
        jax.tree.map(np.testing.assert_array_equal, before[part], after[part])
        assert not any(leaf.any() for leaf in jax.tree.leaves(moments[part]))
    assert all(leaf.any() for leaf in jax.tree.leaves(moments["encoder"]["layer0"]["mlp_in"]))


def test_a_step_that_is_not_finite_is_skipped(pretraining):
    compute, batch = pretraining
    metrics, moments = compute(batch, 3)
    assert metrics["skipped"] == 0 and any(moment.any() for moment in jax.tree.leaves(moments))
    metrics, moments = compute(batch, 3, lambda x: x * jnp.inf)
    assert metrics["skipped"] == 1 and not np.isfinite(metrics["loss"])
    assert not any(moment.any() for moment in jax.tree.leaves(moments))


def test_an_invalid_example_has_no_influence(pretraining):
    compute, batch = pretraining
    changed = {name: value.copy() for name, value in batch.items()}
    changed["video"][-1] = 255 - changed["video"][-1]
    changed["text_ids"][-1] = changed["text_ids"][0]
    changed["text_mask"][-1] = changed["text_mask"][0]
    one, other = compute(batch, 1), compute(changed, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)
    changed["text_ids"][0, 1] = 7
    assert compute(changed, 1)[0]["loss"] != one[0]["loss"]


def test_same_step_number_same_draws(pretraining):
    compute, batch = pretraining
    first, again, other = (compute(batch, number)[0]["loss"] for number in (1, 1, 2))
    assert first == again and first != other


def test_a_batch_without_valid_examples_changes_nothing(pretraining):
    compute, batch = pretraining
    none = {**batch, "valid": np.zeros(8, bool), "video_mask": np.zeros((8, 2), bool)}
    metrics, moments = compute(none, 0)
    assert metrics["loss"] == 0 and metrics["gradient_norm"] == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(moments))


@pytest.mark.parametrize("term", ["mlm_text", "mlm_cross", "gvtm_stage1", "gvtm_stage2", "lvwm"])
def test_weight_zero_switches_a_term_off(term, tiny_config):
    """Traced, not computed: a term without a weight is absent from the step."""
    config = tiny_config("pretrain")
    tokenizer = load_tokenizer(config.text.tokenizer)
    model, task = build.build_model(config, tokenizer), build.build_task(config, tokenizer)
    batch = make_batch(config, tokenizer)
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0), spec=inputs.clip_spec(config)))
    less = dataclasses.replace(task, weights={**task.weights, term: 0.0})
    shapes = jax.eval_shape(
        lambda params, batch, key: less.compute(Network(model, params), batch, key, train=True, memory=None),
        params, jax.tree.map(jnp.asarray, batch), jax.random.key(0),
    )  # fmt: skip
    terms = {"mlm_text", "mlm_cross", "gvtm_stage1", "gvtm_stage2", "lvwm"}
    assert terms & set(shapes.terms) == terms - {term}
