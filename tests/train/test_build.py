"""From a config to a network and a task: what switches create, and which settings cannot be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from snp_jax.data.augment import AugmentOptions
from snp_jax.data.text import load_tokenizer
from snp_jax.errors import UserError
from snp_jax.models.network import Network
from snp_jax.objectives.total import total_loss
from snp_jax.train import build, inputs
from snp_jax.train.optim import DECAY_RULES, decay_mask
from snp_jax.train.state import init_params


def pretraining(tiny_config, **objective):
    config = tiny_config("pretrain")
    config.update_from_flattened_dict({f"objective.{key.replace('__', '.')}": value for key, value in objective.items()})
    return config


@pytest.mark.parametrize("quirks", [False, True])
def test_everything_at_once(quirks, tiny_config):
    """P3E with ITM, frame order, MoCo, mined and re-weighted negatives: shapes of loss, terms, gradients and memory."""
    config = pretraining(
        tiny_config, weights__itm=1.0, weights__fom=1.0, moco__enabled=True, matching__mining="nearest", matching__negatives=3,
        matching__reweight="median", lvwm="both",
    )  # fmt: skip
    config.model.cross_layers = 2
    if quirks:
        common.antmmf(config)
        config.objective.matching.update(negatives=0, local_groups=2)
    tokenizer = load_tokenizer(config.text.tokenizer)
    model, task = build.build_model(config, tokenizer), build.build_task(config, tokenizer)
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0), spec=inputs.clip_spec(config)))
    assert {"cross_embeddings", "cross_encoder", "itm", "temporal", "order"} <= set(params)
    decay_mask(params, DECAY_RULES)
    memory = jax.eval_shape(lambda params: task.init_memory(params, jax.random.key(0)), params)
    shape, length = (8, 2, *config.clip.image_size, 3), config.text.max_len
    arrays = {"video": (shape, np.uint8), "video_mask": ((8, 2), bool), "valid": ((8,), bool)}
    arrays |= {name: ((8, length), np.int32) for name in ("text_ids", "text_ids_to_mask")} | {"text_mask": ((8, length), bool)}
    batch = {name: jax.ShapeDtypeStruct(*array) for name, array in arrays.items()}

    def step(params, memory, batch):
        def loss(params):
            found = task.compute(Network(model, params), batch, jax.random.key(0), train=True, memory=memory)
            return total_loss(found.terms, task.weights), found

        return jax.value_and_grad(loss, has_aux=True)(params)

    (total, outcome), gradients = jax.eval_shape(step, params, memory, batch)
    terms = {"mlm_text", "mlm_cross", "gvtm_stage1", "gvtm_stage2", "lvwm", "itm", "fom", "lvwm_after", "lvwm_before"}
    assert total.shape == () and total.dtype == jnp.float32 and terms <= set(outcome.terms | outcome.metrics)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), outcome.memory) == jax.tree.map(lambda x: (x.shape, x.dtype), memory)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)


def test_optional_parts_are_absent_by_default(tiny_config):
    for name in ("pretrain", "retrieval", "qa", "choice"):
        config = tiny_config(name)
        settings = build.build_model(config, load_tokenizer(config.text.tokenizer)).config
        assert (settings.cross_layers, settings.itm, settings.temporal) == (0, False, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moco__enabled": True, "moco__clip_queue": 15}, "moco.clip_queue=15 is shorter than the 16 keys of one batch"),
        ({"moco__enabled": True, "moco__text_queue": 7}, "moco.text_queue=7 is shorter than the 8 keys of one batch"),
        ({"matching__local_groups": 3}, "config.batch_size=8 is not a multiple of .*local_groups=3"),
        ({"matching__local_groups": 2, "matching__negatives": 1}, "local_groups is for all pairs of a group"),
        ({"matching__mining": "top_k"}, "mining='top_k' chooses .*negatives, which is 0"),
    ],
)
def test_objectives_that_cannot_be(changes, message, tiny_config):
    config = pretraining(tiny_config, **changes)
    with pytest.raises(UserError, match=message):
        build.build_task(config, load_tokenizer(config.text.tokenizer))


def test_frame_order_that_cannot_be(tiny_config):
    config = pretraining(tiny_config, weights__fom=1.0)
    config.model.temporal.max_clips = 1
    with pytest.raises(UserError, match="config.clip.num_clips=2 exceeds config.model.temporal.max_clips=1"):
        build.build_model(config, load_tokenizer(config.text.tokenizer))
    config.compat.order_over_batch, config.clip.num_clips = True, 3
    with pytest.raises(UserError, match="order_over_batch takes 3 pairs for the clips of one video, and a program has 1"):
        build.build_mesh(config)
    for key, value in (("mining", "random"), ("reweight", "mean")):
        config = pretraining(tiny_config, **{f"matching__{key}": value})
        with pytest.raises(UserError, match=f"config.objective.matching.{key}='{value}': choose one of"):
            build.check_choices(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment.zoom": 0.5}, "zoom must be at least 1"),
        ({"augment.scale": 0.0}, r"scale must be in \(0, 1\]"),
        ({"augment.flip": 1.5}, r"flip in \[0, 1\]"),
        ({"augment.rand_magnitude": 31.0}, r"rand_magnitude in \[0, 30\]"),
        ({"augment.crop_area": (0.5, 0.2), "clip.crop_size": (8, 8)}, "crop_area must be two shares"),
        ({"augment.crop_area": (0.5, 1.0)}, r"set config.clip.crop_size=\(height, width\)"),
        ({"augment.scale": 0.5, "clip.crop_size": (8, 8)}, "use crop_area instead of scale"),
        ({"augment.rand_ops": 2, "clip.fit": "pad"}, "change whole frames, not padded ones"),
        ({"augment.shift": 0.1, "augment.scale": 0.5}, "change whole frames, not padded ones"),
    ],
)
def test_augmentation_that_cannot_be(changes, message, tiny_config):
    config = tiny_config("pretrain")
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        build.build_augment(config)


def test_augmentation_of_a_config(tiny_config):
    config = common.antmmf(tiny_config("pretrain"))
    config.update_from_flattened_dict({"clip.crop_size": (24, 24), "augment.crop_area": (0.2, 1.0), "augment.rand_ops": 2})
    options = build.build_augment(config)
    assert options == AugmentOptions(crop_size=(24, 24), crop_area=(0.2, 1.0), rand_ops=2, corner_mask=True)
    assert build.build_augment(tiny_config("pretrain")) == AugmentOptions()
