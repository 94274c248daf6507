"""Parity of the visual encoders with the authors' PyTorch code: outputs, masks and gradients."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.convert.pvt import map_pvt
from snp_jax.convert.resnet import map_resnet
from snp_jax.convert.rules import apply, invert
from snp_jax.convert.video_swin import map_video_swin
from snp_jax.models.pvt import PVT, PVTConfig
from snp_jax.models.resnet import FROZEN_PATTERN, ResNet, ResNetConfig
from snp_jax.models.video_swin import VideoSwin, VideoSwinConfig

GOLDENS = Path(__file__).parents[1] / "goldens"


def build(name, config):
    """(model, name map, PyTorch prefix) of a golden's encoder."""
    if name.startswith("pvt"):
        fields = ("embed_dims", "depths", "mlp_ratios", "sr_ratios")
        sizes = {field: tuple(config["pvt"][field]) for field in fields}
        pvt = PVTConfig(heads=tuple(config["pvt"]["num_heads"]), **sizes)
        return PVT(pvt), map_pvt(pvt, "model.")
    if name.startswith("resnet"):
        resnet = ResNetConfig(tuple(config["layers"]), tuple(config["planes"]), config["stem_width"])
        return ResNet(resnet), map_resnet(resnet, "model.")
    swin = config["swin"]
    per_stage = (tuple(swin[key]) for key in ("depths", "num_heads", "window_size"))
    swin = VideoSwinConfig(swin["embed_dim"], *per_stage)
    return VideoSwin(swin), map_video_swin(swin, "swin.")


def close(got, wanted, tolerance):
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("name", ["pvt", "resnet_frozenbn", "swin_deep_clip"])
def test_golden(name):
    arrays = np.load(GOLDENS / f"{name}.npz")
    config = json.loads((GOLDENS / f"{name}.json").read_text())["config"]

    def group(prefix):
        return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}

    model, rules = build(name, config)
    state = group("param/")
    applied = apply(rules, state)
    assert not applied.missing
    assert all(unused.startswith(("output_proj", "model.head")) for unused in applied.unused)

    frames = jnp.asarray(arrays["in/image"]).transpose(0, 1, 3, 4, 2)
    cotangent = jnp.asarray(arrays["in/cot"]).transpose(0, 1, 3, 4, 2)
    projection = state.get("output_proj.weight")

    def objective(params):
        grid = model.apply({"params": params}, frames, ~arrays["in/image_mask"], deterministic=True)
        features = grid.grid
        if projection is not None:
            features = features @ projection[:, :, 0, 0].T + state["output_proj.bias"]
        return jnp.sum(features * cotangent), (features, grid.mask)

    step = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (value, (features, mask)), gradients = step(applied.params)
    np.testing.assert_array_equal(~mask, arrays["out/grid_mask"])
    close(features.transpose(0, 1, 4, 2, 3), arrays["out/grid_feature"], 1e-4)
    np.testing.assert_allclose(value, arrays["out/objective"], rtol=1e-3)
    ours = invert(rules, gradients)
    recorded = group("grad/")
    compared = [key for key in recorded if key in rules]
    assert len(compared) >= 7
    for key in compared:
        close(ours[key], recorded[key], 1e-3)
    if name.startswith("resnet"):
        frozen = [k for k in rules if ".bn" in k or ".downsample.1" in k]
        assert frozen and not any(ours[key].any() for key in frozen)


def test_frozen_pattern_matches_exactly_the_batch_norms():
    rules = map_resnet(ResNetConfig())
    frozen = {name for name, rule in rules.items() if re.search(FROZEN_PATTERN, "visual/" + rule.path)}
    assert frozen == {name for name in rules if "bn" in name or "downsample.1" in name}
    assert sum(np.prod(rules[name].shape) for name in frozen) == 106_240
