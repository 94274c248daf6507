"""Every visual encoder inside the network: its map to the model width, its names, its keys in a config."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from configs import common
from snp_jax.convert.snp import map_snp
from snp_jax.errors import UserError
from snp_jax.models.bert import BertConfig
from snp_jax.models.pvt import PVT_CONFIGS, PVTConfig
from snp_jax.models.resnet import ResNetConfig
from snp_jax.models.snp import SNP, SNPConfig
from snp_jax.models.video_swin import VIDEO_SWIN_CONFIGS, VideoSwinConfig
from snp_jax.train.build import build_visual, check_choices
from snp_jax.train.optim import DECAY_RULES, decay_mask

ENCODERS = {
    "pvt": PVTConfig((8, 8, 16, 16), (1,) * 4, (1,) * 4, (2,) * 4),
    "resnet": ResNetConfig((1,) * 4, (4, 4, 8, 8), 8),
    "swin": VideoSwinConfig(4, (1, 2, 1, 1), (1,) * 4, (2, 3, 3)),
    "swin_as_wide": VideoSwinConfig(2, (1, 2, 1, 1), (1,) * 4, (2, 3, 3)),
}


def network(visual, **sizes):
    bert = BertConfig(**({"vocab_size": 20, "width": 16, "layers": 1, "heads": 2, "mlp_width": 32, "max_positions": 8} | sizes))
    return SNP(SNPConfig(bert, visual, sep_id=3))


def parameter_shapes(model):
    frames, ids = jax.ShapeDtypeStruct((1, 2, 40, 64, 3), jnp.float32), jax.ShapeDtypeStruct((1, 4), jnp.int32)
    masks = jax.ShapeDtypeStruct((1, 2), bool), jax.ShapeDtypeStruct((1, 4), bool)
    init = lambda *inputs: model.init(jax.random.key(0), *inputs, num_clips=2)["params"]  # noqa: E731
    return jax.eval_shape(init, frames, masks[0], ids, masks[1])


@pytest.mark.parametrize("name", ENCODERS)
def test_one_interface(name):
    """Same outputs whatever the encoder; one projection rule; a release name and a decay rule for every parameter."""
    model = network(ENCODERS[name])
    params = parameter_shapes(model)
    wanted = {"pvt": {"kernel", "bias"}, "resnet": {"kernel", "bias"}, "swin": {"kernel"}, "swin_as_wide": set()}
    assert set(params.get("visual_projection", {})) == wanted[name]
    clips = jax.eval_shape(
        lambda params, frames, mask: model.apply(
            {"params": params}, frames, mask, num_clips=2, deterministic=True, method="encode_video"
        ),
        params, jax.ShapeDtypeStruct((3, 4, 40, 64, 3), jnp.float32), jax.ShapeDtypeStruct((3, 4), bool),
    )  # fmt: skip
    assert [leaf.shape for leaf in clips] == [(3, 2, 16), (3, 2, 16), (3, 2)]
    ours = sorted(
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(params)
    )
    assert sorted(rule.path for rule in map_snp(model.config).values()) == ours
    decay_mask(params, DECAY_RULES)  # raises where no rule covers a path


def test_resnet_drop_path_needs_a_key_and_drops_whole_frames():
    config = dataclasses.replace(ENCODERS["resnet"], drop_path=0.9)
    model = network(config)
    frames, mask = jnp.ones((1, 2, 32, 32, 3)), jnp.ones((1, 2), bool)
    params = jax.tree.map(lambda leaf: 0.1 * jnp.ones(leaf.shape), parameter_shapes(model))

    def tokens(deterministic, key):
        return model.apply(
            {"params": params}, frames, mask, num_clips=2, deterministic=deterministic, rngs={"dropout": jax.random.key(key)},
            method="encode_video",
        ).tokens  # fmt: skip

    assert jnp.array_equal(tokens(True, 0), tokens(True, 1))
    drawn = jnp.stack([tokens(False, key) for key in range(4)])
    assert not jnp.allclose(drawn, drawn[0])


@pytest.mark.parametrize(
    ("visual", "expected"),
    [
        (common.pvt("b2"), PVT_CONFIGS["b2"]),
        (common.pvt("b2_li"), PVT_CONFIGS["b2_li"]),
        (common.resnet(), ResNetConfig()),
        (common.video_swin("base"), VIDEO_SWIN_CONFIGS["base"]),
    ],
)
def test_config_builders(visual, expected):
    config = common.base("pretrain")
    config.model.visual = visual
    check_choices(config)
    assert build_visual(config) == expected


def test_another_kind_needs_its_own_keys():
    config = common.base("pretrain")
    config.model.visual.kind = "resnet"
    with pytest.raises(UserError, match=r"write config.model.visual = common.resnet"):
        build_visual(config)
    config.model.visual.kind = "vit"
    with pytest.raises(UserError, match="config.model.visual.kind='vit': choose one of pvt, resnet, video_swin"):
        check_choices(config)
