"""Name maps: complete, one to one, exact in both directions, and strict about shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.convert.pvt import map_pvt
from snp_jax.convert.resnet import map_resnet
from snp_jax.convert.rules import CONV2D, CONV3D, LINEAR, Rule, apply, invert, nest
from snp_jax.convert.video_swin import map_video_swin
from snp_jax.errors import UserError
from snp_jax.models.pvt import PVT, PVT_CONFIGS, PVTConfig
from snp_jax.models.resnet import ResNet, ResNetConfig
from snp_jax.models.video_swin import VIDEO_SWIN_CONFIGS, VideoSwin, VideoSwinConfig

FAMILIES = {
    "pvt_b0": (PVT(PVT_CONFIGS["b0"]), map_pvt(PVT_CONFIGS["b0"])),
    "pvt_b2_li": (PVT(PVT_CONFIGS["b2_li"]), map_pvt(PVT_CONFIGS["b2_li"])),
    "pvt_b5": (PVT(PVT_CONFIGS["b5"]), map_pvt(PVT_CONFIGS["b5"])),
    "resnet": (ResNet(ResNetConfig()), map_resnet(ResNetConfig())),
    "video_swin": (VideoSwin(VIDEO_SWIN_CONFIGS["base"]), map_video_swin(VIDEO_SWIN_CONFIGS["base"])),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_map_names_every_parameter_once_with_its_shape(family):
    model, rules = FAMILIES[family]
    video = jax.ShapeDtypeStruct((1, 2, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, deterministic=True)["params"], video)
    ours = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    mapped = {rule.path: tuple(np.array(rule.shape)[list(rule.axes)]) if rule.axes else rule.shape for rule in rules.values()}
    assert len(mapped) == len(rules)
    assert mapped == ours


@pytest.mark.parametrize(
    "rules",
    [
        map_pvt(PVTConfig((4, 4, 8, 8), (1, 1, 1, 1), (1, 1, 2, 2), (2, 2, 2, 2)), "model."),
        map_resnet(ResNetConfig((1, 1, 1, 1), (2, 2, 2, 2), 4)),
        map_video_swin(VideoSwinConfig(4, (1, 1, 1, 1), (1, 1, 1, 1), (2, 2, 2)), "backbone."),
    ],
)
def test_round_trip_is_exact(rules):
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(rule.shape).astype(np.float32) for name, rule in rules.items()}
    applied = apply(rules, state)
    assert not applied.unused and not applied.missing
    back = invert(rules, applied.params)
    assert back.keys() == state.keys()
    for name, array in state.items():
        assert back[name].flags.c_contiguous
        np.testing.assert_array_equal(back[name], array)


def test_layouts():
    linear = Rule("a", (2, 3), LINEAR)
    assert linear.to_ours(np.arange(6).reshape(2, 3))[2, 1] == 5
    image, video = np.zeros((8, 3, 7, 5)), np.zeros((8, 3, 2, 7, 5))
    assert Rule("a", image.shape, CONV2D).to_ours(image).shape == (7, 5, 3, 8)
    assert Rule("a", video.shape, CONV3D).to_ours(video).shape == (2, 7, 5, 3, 8)


def test_unused_missing_and_nesting():
    rules = nest({"x.weight": Rule("x/kernel", (2, 3), LINEAR), "x.bias": Rule("x/bias", (2,))}, "visual")
    applied = apply(rules, {"x.weight": np.zeros((2, 3)), "head.weight": np.zeros(1)})
    assert applied.unused == ["head.weight"]
    assert applied.missing == ["x.bias"]
    assert applied.params["visual"]["x"]["kernel"].shape == (3, 2)


def test_wrong_shapes_and_paths_are_named():
    rules = {"x.weight": Rule("x/kernel", (2, 3), LINEAR)}
    with pytest.raises(UserError, match=r"net.pth: x.weight has shape \(3, 2\), but .* needs \(2, 3\)"):
        apply(rules, {"x.weight": np.zeros((3, 2))}, source="net.pth")
    with pytest.raises(UserError, match=r"x/kernel.*shape \(3, 2\), expected \(2, 3\)"):
        invert(rules, {"x": {"kernel": np.zeros((2, 3))}})
    with pytest.raises(UserError, match="x/kernel: not in the model, which has no 'kernel' there"):
        invert(rules, {"x": {"bias": np.zeros(2)}})
