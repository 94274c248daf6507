"""A step computes the same as one program, as one program a device, and where the compiler places the collectives."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from steps import Run, make_batch

from snp_jax.data.text import load_tokenizer
from snp_jax.models import backend
from snp_jax.train import inputs, sharding
from snp_jax.train.state import abstract_state

ONE, EIGHT = {"data": 1}, {"data": 8}


def assert_same(one, other, *, metrics=2e-5, gradients=1e-4):
    """Of the update the first moments are compared, which are 0.1 x the gradients: Adam's first step is their sign, also where
    they are rounding noise."""
    for first, second in zip(one[0], other[0], strict=True):
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_allclose(first[name], second[name], rtol=metrics, atol=metrics, err_msg=name)
    moments = [optax.tree.get(state.opt_state, "mu") for _, state in (one, other)]
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(moments[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=gradients, atol=gradients * scale), *moments)
    if one[1].memory is not None:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one[1].memory, other[1].memory)


def everything(tiny_config, **changes):
    """Pre-training with every objective, augmentation, dropout and mined negatives; `changes` are keys of the objective."""
    config = tiny_config("pretrain")
    config.optim.learning_rate = 1e-5
    config.augment.update(zoom=1.2, shift=0.1, light=0.1)
    config.model.visual.drop_path = 0.2
    config.objective.weights.update(itm=1.0, fom=1.0, tags=1.0)
    config.objective.matching.update(negatives=2, reweight="median", chunk=5, similarity_chunk=3)
    config.objective.update_from_flattened_dict(changes)
    return config


def mined(tiny_config):
    """Retrieval with drawn negatives in chunks."""
    config = tiny_config("retrieval")
    config.optim.learning_rate = 1e-5
    config.objective.matching.update(negatives=2, reweight="median", chunk=5, similarity_chunk=3)
    return config


@pytest.mark.slow
def test_one_device_and_eight_draw_and_compute_the_same(tiny_config):
    config = mined(tiny_config)
    assert_same(Run(config, ONE).take(2), Run(config, {"data": 2, "fsdp": 4}).take(2))


@pytest.fixture(scope="module")
def one_device(tiny_config):
    """Twenty steps with everything switched on, on one device."""
    return Run(everything(tiny_config), ONE).take(20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "reduce"),
    [
        ({"data": 2, "fsdp": 4}, "once"),
        (EIGHT, "compiler"),
        ({"data": 2, "fsdp": 4}, "compiler"),
        ({"data": 2, "fsdp": 2, "model": 2}, "once"),
        ({"data": 4, "model": 2}, "compiler"),
        ({"data": 2, "model": 4}, "once"),  # two heads: XLA gathers them
    ],
)
def test_every_way_to_run_a_step_gives_the_same_losses_and_gradients(mesh, reduce, one_device, tiny_config):
    found = Run(everything(tiny_config), mesh, reduce=reduce).take(20)
    assert_same(one_device, found)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["tagging", "qa", "choice", "moco", "all_pairs", "groups", "release"])
def test_every_task_gives_the_same(task, tiny_config):
    from configs import common

    config = tiny_config(task if task in ("tagging", "qa", "choice") else "pretrain")
    config.optim.learning_rate = 1e-5
    if task == "moco":
        config.objective.moco.update(enabled=True, momentum=0.9, clip_queue=24, text_queue=12)
    if task == "groups":
        config.objective.matching.local_groups = 2
    if task == "release":
        common.antmmf(config)
        config.objective.matching.update(local_groups=2, mining="nearest")
        config.compat.separate_windows = False
    runs = [Run(config, ONE), Run(config, {"data": 4, "fsdp": 2}), Run(config, EIGHT, reduce="compiler")]
    one, *others = [run.take(2) for run in runs]
    for other in others:
        assert_same(one, other)


# ---------------------------------------------------------------------- layers in a loop
@pytest.mark.slow
def test_layers_in_a_loop_compute_the_same(tiny_config):
    """Without dropout, whose draws differ between a loop and layers one after the other; with it on several devices."""
    config = everything(tiny_config)
    config.model.bert.layers, config.model.visual.depths = 3, (2, 1, 3, 1)
    loop = config.copy_and_resolve_references()
    loop.model.bert.scan = loop.model.visual.scan = True
    runs = [Run(loop, ONE), Run(loop, {"data": 2, "fsdp": 2, "model": 2}), Run(loop, EIGHT, reduce="compiler")]
    one, *others = [run.take(2) for run in runs]
    for other in others:
        assert_same(one, other)
    for each in (config, loop):
        each.model.bert.update(dropout=0.0, attention_dropout=0.0)
        each.model.visual.drop_path = 0.0
        each.model.head_dropout = 0.0
    assert_same(*(Run(each, ONE).take(2) for each in (config, loop)))


# ---------------------------------------------------------------------- kernels
@pytest.mark.parametrize(
    ("mesh", "options", "kernels"),
    [
        (ONE, {}, True),
        (EIGHT, {}, True),
        (EIGHT, {"reduce": "compiler"}, False),
        ({"data": 4, "model": 2}, {}, False),
        (ONE, {"kernels": False}, False),
    ],
)
def test_kernels_for_tpus_are_used_where_a_program_has_the_arrays_of_one_device(mesh, options, kernels, tiny_config):
    from configs import common

    config = tiny_config("retrieval")
    config.model.visual = common.video_swin("tiny")
    config.model.visual.update(embed_dim=16, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1))
    config.model.bert.update(width=128, heads=2, layers=2)
    config.text.pack = 0
    with backend.lower_for("tpu"):
        program = str(Run(config, mesh, **options).traced().jaxpr)
    assert ("name=window_attention_backward" in program) == kernels
    sixteen_pairs_a_device = mesh == ONE
    assert ("name=sequence_attention_backward" in program) == (kernels and sixteen_pairs_a_device)


# ---------------------------------------------------------------------- packed texts
def of_many_lengths(config):
    """A batch whose texts have from a half to all of the tokens; from now on the config packs them."""
    config.text.pack = 8
    batch = make_batch(config, load_tokenizer(config.text.tokenizer))
    length = batch["text_mask"].shape[-1]
    rows = np.arange(batch["text_mask"][..., 0].size).reshape(batch["text_mask"].shape[:-1])
    batch["text_mask"] &= np.arange(length) < (length // 2 + rows % 3)[..., None]
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pretrain", "retrieval", "qa", "choice"])
def test_without_padding_a_step_computes_the_same(task, tiny_config):
    config = tiny_config(task)
    config.optim.learning_rate = 1e-5
    config.model.bert.update(dropout=0.0, attention_dropout=0.0)
    if task in ("pretrain", "retrieval"):
        config.objective.matching.chunk = 16
    batch, run = of_many_lengths(config), Run(config, ONE)
    packed = inputs.trim_texts(batch, config, run.mesh)
    assert packed["text_places"].size < packed["text_mask"].size
    padded = {name: x for name, x in packed.items() if name != "text_places"}
    assert_same(run.take(2, padded), run.take(2, packed))


@pytest.mark.slow
def test_one_device_and_eight_compute_the_same_without_padding(tiny_config):
    """With dropout, which is drawn by the token; each device has room for the most tokens that one of them holds."""
    config = everything(tiny_config, **{"matching.negatives": 0, "matching.chunk": 16})
    batch, found = of_many_lengths(config), []
    for mesh in (ONE, {"data": 4, "fsdp": 2}):
        run = Run(config, mesh)
        packed = inputs.trim_texts(batch, config, run.mesh)
        assert "text_places" in packed
        found.append(run.take(2, packed))
    assert_same(*found)


# ---------------------------------------------------------------------- accumulation
def masking_only(tiny_config):
    config = tiny_config("pretrain")
    config.optim.learning_rate = 1e-5
    config.batch_size = 16
    config.objective.weights.update(gvtm_stage1=0.0, gvtm_stage2=0.0, lvwm=0.0)
    return config


@pytest.mark.slow
def test_a_loss_over_rows_does_not_depend_on_the_number_of_microbatches(tiny_config):
    """With dropout; the microbatches count different numbers of answers."""
    config = tiny_config("qa")
    config.optim.learning_rate = 1e-5
    config.batch_size = 16
    assert_same(Run(config, ONE).take(2), Run(config, {"data": 2, "fsdp": 2}, accumulate=4).take(2))


@pytest.mark.slow
def test_masking_losses_do_not_depend_on_the_number_of_microbatches(tiny_config):
    """With every draw on: the microbatches read and mask what the whole batch would."""
    config = masking_only(tiny_config)
    whole = Run(config, ONE).take(2)
    assert_same(whole, Run(config, {"data": 2, "fsdp": 2}, accumulate=4).take(2))


@pytest.mark.slow
def test_contrastive_terms_are_those_of_the_microbatches(tiny_config):
    config = tiny_config("retrieval")
    config.batch_size = 16
    config.optim.learning_rate = 0.0
    config.model.bert.update(dropout=0.0, attention_dropout=0.0)
    config.model.head_dropout = 0.0
    one = Run(config, ONE, accumulate=2)
    batch = make_batch(config, one.tokenizer)
    ((metrics,), _), ((spread,), _) = one.take(1, batch), Run(config, {"data": 8}, accumulate=2).take(1, batch)
    halves = [Run(config, ONE).take(1, {name: x[part::2] for name, x in batch.items()})[0][0] for part in range(2)]
    counts = [batch["valid"][part::2].sum() for part in range(2)]
    for term in ("gvtm_stage1", "gvtm_stage2"):
        expected = np.average([half[term] for half in halves], weights=counts)
        np.testing.assert_allclose([metrics[term], spread[term]], expected, rtol=1e-5)


# ---------------------------------------------------------------------- what is compiled
SIZES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1}


def reduced(hlo):
    """(elements, dtypes) of everything that all-reduces and reduce-scatters give, scalars aside."""
    total, dtypes = 0, set()
    for result in re.findall(r"= (.*?) (?:all-reduce|reduce-scatter)(?:-start)?\(", hlo):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result):
            if shape:
                total += int(np.prod([int(side) for side in shape.split(",")]))
                dtypes.add(dtype)
    return total, dtypes


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retrieval", "pretrain"])
def test_gradients_are_added_up_once_in_float32(task, tiny_config):
    """Although the shared BERT runs two or three times, in bfloat16."""
    config = tiny_config(task)
    config.model.dtype = "bfloat16"
    run = Run(config, EIGHT)
    params = abstract_state(*run.parts).params
    everything = sum(leaf.size for leaf in jax.tree.leaves(params))
    shared = sum(leaf.size for name in ("encoder", "embeddings") for leaf in jax.tree.leaves(params[name]))
    # A device's part of the gradients of gathered rows: text and clip features, words, embedded clips and [SEP], scores.
    features = config.model.bert.width * (1 + 2 + 3 + 3) + config.batch_size
    assert features < shared / 4
    total, dtypes = reduced(run.compiled())
    assert shared <= total <= everything + features and dtypes == {"f32"}


def test_states_are_float32_and_split_like_the_parameters(tiny_config):
    for name in ("adamw", "muon"):
        config = tiny_config("pretrain")
        config.optim.name, config.model.dtype = name, "bfloat16"
        state = abstract_state(*Run(config, {"data": 2, "fsdp": 2, "model": 2}).parts)
        floats = [leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert set(floats) == {jnp.dtype(jnp.float32)}
        specs = {leaf.sharding.spec for leaf in jax.tree.leaves(state.params)}
        assert any("model" in spec for spec in specs) and any("fsdp" in spec for spec in specs)
        flat = {sharding.parameter_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)}
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
            name_of = sharding.parameter_path(path)
            slots = [slot for where, slot in flat.items() if where.endswith("/" + name_of) and slot.shape == leaf.shape]
            assert slots and all(slot.sharding == leaf.sharding for slot in slots), name_of
