"""MoCo as training state: the same on one device and on eight, checkpointed, and untouched by what is not a number."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snp_jax.data.text import load_tokenizer
from snp_jax.train import build, inputs, loop, sharding
from snp_jax.train.metrics import read_metrics
from snp_jax.train.optim import make_optimizer
from snp_jax.train.state import abstract_state, create_state, init_params, start_state
from snp_jax.train.step import make_train_step

VALID = 7  # of 8 pairs, with 2 clips each


def contrastive(tiny_config, **train):
    """Stage 1 alone, with queues that two steps fill, and a rate at which Adam's first steps hardly matter."""
    config = tiny_config("retrieval", **train)
    config.objective.weights.gvtm_stage2 = 0.0
    config.objective.moco.update(enabled=True, momentum=0.9, clip_queue=24, text_queue=12)
    config.optim.learning_rate = 1e-6
    return config


class Run:
    """A run on the first `devices` devices, without its loop."""

    def __init__(self, config, devices):
        tokenizer = load_tokenizer(config.text.tokenizer)
        chosen = jax.devices()[:devices]
        mesh = sharding.make_mesh(sharding.MeshOptions(data=devices, fsdp=1), chosen)
        model, task, options = (
            build.build_model(config, tokenizer),
            build.build_task(config, tokenizer),
            build.build_optim(config),
        )
        tx, spec = make_optimizer(options), inputs.clip_spec(config)
        self.state = create_state(
            lambda: init_params(model, jax.random.key(0), spec=spec), tx, mesh,
            lambda params: task.init_memory(params, jax.random.key(1)),
        )  # fmt: skip
        places = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        self.step = make_train_step(model, task, tx, options, build.build_augment(config), mesh, places, config.seed)
        rng, size = np.random.default_rng(0), config.clip.image_size
        encoded = [tokenizer.encode(f"caption {i} of clip {i}", config.text.max_len) for i in range(8)]
        batch = {
            "video": rng.integers(0, 256, (8, 2, *size, 3), dtype=np.uint8),
            "video_mask": np.ones((8, 2), bool),
            "text_ids": np.stack([ids for ids, _ in encoded]),
            "text_mask": np.stack([mask for _, mask in encoded]),
            "valid": np.arange(8) < VALID,
        }
        self.batch = sharding.put_batch(batch, mesh)


@pytest.fixture(scope="module")
def one_device(tiny_config):
    """(run, its memory before and after each of two steps, its state then)."""
    run = Run(contrastive(tiny_config), 1)
    state, memories = jax.tree.map(jnp.copy, run.state), [jax.device_get(run.state.memory)]
    for _ in range(2):
        state, _ = run.step(state, run.batch)
        memories.append(jax.device_get(state.memory))
    return run, memories, state


def test_queues_take_the_valid_keys_and_wrap(one_device):
    _, (before, first, second), _ = one_device
    assert (first.clip_pointer, first.text_pointer) == (2 * VALID, VALID)
    assert (second.clip_pointer, second.text_pointer) == (4 * VALID % 24, 2 * VALID % 12)
    np.testing.assert_array_equal(first.clip_queue[2 * VALID :], before.clip_queue[2 * VALID :])
    np.testing.assert_array_equal(second.text_queue[2:VALID], first.text_queue[2:VALID])  # two wrapped over 0 and 1
    assert (np.abs(second.text_queue[:2] - first.text_queue[:2]) > 1e-6).any(axis=1).all()
    np.testing.assert_allclose(np.linalg.norm(second.clip_queue, axis=1), 1.0, rtol=1e-5)


def test_key_encoders_follow_slowly(one_device):
    run, (before, first, second), state = one_device
    jax.tree.map(np.testing.assert_array_equal, before.encoders["pooler"], jax.device_get(run.state.params["pooler"]))
    assert set(before.encoders) == {"visual", "visual_projection", "clip_fc1", "clip_fc2", "embeddings", "encoder", "pooler"}
    moved = state.params["pooler"]["dense"]["kernel"] - second.encoders["pooler"]["dense"]["kernel"]
    assert 0 < np.abs(moved).max() < 1e-5
    changed = second.encoders["pooler"]["dense"]["kernel"] - first.encoders["pooler"]["dense"]["kernel"]
    assert np.abs(changed).max() < np.abs(moved).max()


@pytest.mark.slow
def test_one_device_and_eight_hold_the_same_memory(one_device, tiny_config):
    run = Run(contrastive(tiny_config), 8)
    state, memories = run.state, one_device[1]
    for expected in memories[1:]:
        state, metrics = run.step(state, run.batch)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), jax.device_get(state.memory), expected
        )
    assert state.memory.clip_queue.sharding.is_fully_replicated and len(state.memory.clip_queue.sharding.device_set) == 8
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        *(jax.device_get(optax.tree.get(s.opt_state, "mu")) for s in (state, one_device[2])),
    )


def test_a_batch_that_is_not_finite_does_not_enter_the_queues(one_device):
    run, _, state = one_device
    before = jax.device_get(state.memory)
    broken = jax.tree.map(jnp.copy, state)
    broken = broken.replace(
        params={**broken.params, "clip_fc1": jax.tree.map(lambda x: x * jnp.nan, broken.params["clip_fc1"])}
    )
    after, metrics = run.step(broken, run.batch)
    assert np.isnan(metrics["loss"])
    for name in ("clip_queue", "text_queue", "clip_pointer", "text_pointer"):
        np.testing.assert_array_equal(getattr(after.memory, name), getattr(before, name))


def test_key_encoders_are_sharded_like_the_parameters(tiny_config):
    config = contrastive(tiny_config)
    tokenizer, tx = load_tokenizer(config.text.tokenizer), make_optimizer(build.build_optim(config))
    model, task = build.build_model(config, tokenizer), build.build_task(config, tokenizer)
    mesh = sharding.make_mesh(sharding.MeshOptions(data=-1, fsdp=2))
    state = abstract_state(
        lambda: init_params(model, jax.random.key(0), spec=inputs.clip_spec(config)), tx, mesh,
        lambda params: task.init_memory(params, jax.random.key(1)),
    )  # fmt: skip
    copies = state.memory.encoders
    places = [
        [leaf.sharding for leaf in jax.tree.leaves(tree)] for tree in (copies, {name: state.params[name] for name in copies})
    ]
    assert places[0] == places[1] and not all(place.is_fully_replicated for place in places[0])
    assert state.memory.text_queue.sharding.is_fully_replicated


@pytest.mark.slow
def test_a_resumed_run_has_its_queues(tiny_config, tmp_path):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert loop.run(contrastive(tiny_config), straight)
    assert loop.run(contrastive(tiny_config, steps=2), resumed) and loop.run(contrastive(tiny_config), resumed)
    losses = [[line["gvtm_stage1"] for line in read_metrics(path / "metrics.jsonl")] for path in (straight, resumed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 4
    assert (resumed / "checkpoints" / "4" / "memory").is_dir()


def test_the_memory_starts_from_the_parameters_that_were_loaded():
    make = lambda params: {"keys": jax.tree.map(jnp.copy, params)}  # noqa: E731
    mesh, tx = sharding.make_mesh(sharding.MeshOptions(data=1, fsdp=1), jax.devices()[:1]), optax.sgd(0.1)
    abstract = abstract_state(lambda: {"a": jnp.zeros(3)}, tx, mesh, make)
    state = start_state({"a": jnp.ones(3)}, abstract, tx, make)
    np.testing.assert_array_equal(state.memory["keys"]["a"], 1.0)
    np.testing.assert_array_equal(state.params["a"], 1.0)
