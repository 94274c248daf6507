"""Policies for what the backward pass recomputes: which products it runs a second time, and that numbers stay the same."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.aot.flops import count_recomputed, live
from snp_jax.errors import UserError
from snp_jax.models import bert, pvt, video_swin
from snp_jax.models.remat import POLICIES
from snp_jax.train import build

BERT = bert.BertConfig(width=16, layers=2, heads=2, mlp_width=32)
SWIN = video_swin.VideoSwinConfig(embed_dim=16, depths=(4, 1, 1, 1), heads=(2,) * 4, window=(2, 3, 3), scan=True)
PVT = pvt.PVTConfig(embed_dims=(16,) * 4, depths=(2,) * 4, heads=(2,) * 4, mlp_ratios=(2,) * 4)


def of_bert(remat):
    encoder, x = bert.Encoder(dataclasses.replace(BERT, remat=remat)), jnp.ones((2, 5, 16))
    return lambda x: lambda params: encoder.apply(params, x, jnp.ones((2, 5), bool), deterministic=True)[0], encoder, x


def of_swin(remat):
    stage = video_swin.Stage(dataclasses.replace(SWIN, remat=(remat,) * 4), 0, (0.0,) * 4, jnp.float32)
    return lambda x: lambda params: stage.apply(params, x, True), stage, jnp.ones((1, 2, 6, 6, 16))


def of_pvt(remat):
    stage = pvt.Stage(dataclasses.replace(PVT, remat=(remat,) * 4), 1, (0.0,) * 2, jnp.float32)
    return lambda x: lambda params: stage.apply(params, x, True), stage, jnp.ones((1, 8, 8, 16))


def measure(part, remat):
    """Gradients, and operations that are computed twice."""
    bind, module, x = part(remat)
    x = jax.random.normal(jax.random.key(0), x.shape)
    arguments = (x, jnp.ones(x.shape[:2], bool)) if part is of_bert else (x, True)
    options = {"deterministic": True} if part is of_bert else {}
    params = module.init(jax.random.key(1), *arguments, **options)
    traced = jax.jit(jax.grad(lambda params: jnp.square(bind(x)(params) - 1).mean())).trace(params)
    return traced.lower().compile()(params), count_recomputed(live(traced.jaxpr))


@pytest.mark.parametrize("part", [of_bert, of_swin, of_pvt])
def test_light_recomputes_less_than_full_and_none_nothing(part):
    (plain, none), (light_gradients, light), (full_gradients, full) = (measure(part, each) for each in POLICIES)
    assert none == 0 < light < full
    for other in (light_gradients, full_gradients):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), plain, other)


def test_another_word(tiny_config):
    config = tiny_config("pretrain")
    config.model.visual.remat = ("none", "some", "none", "none")
    with pytest.raises(UserError, match=r"config\.model\.visual: PVTConfig: remat is one of none, light, full, not 'some'"):
        build.build_visual(config)
