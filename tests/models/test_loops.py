"""A loop over equal layers computes what the layers one after the other compute."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from snp_jax.models import pvt, resnet, video_swin
from snp_jax.models.bert import BertConfig, Encoder
from snp_jax.models.dropout import DropPath
from snp_jax.models.loops import loop_length, run_loop
from snp_jax.models.packing import packing_of

BERT = BertConfig(vocab_size=20, width=16, layers=4, heads=2, mlp_width=32, max_positions=16)
PVT = pvt.PVTConfig(embed_dims=(8,) * 4, depths=(3,) * 4, heads=(2,) * 4, mlp_ratios=(2,) * 4)
SWIN = video_swin.VideoSwinConfig(embed_dim=8, depths=(5, 1, 1, 1), heads=(2,) * 4, window=(2, 3, 3))
RESNET = resnet.ResNetConfig(depths=(4, 1, 1, 1), planes=(4,) * 4, stem_width=4)


def numbers(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def gradient(module, params, *args, **kwargs):
    """Value and gradients of a module's first output, and the number of loops in the program."""

    def loss(params, x, *rest):
        found = module.apply(params, x, *rest, **kwargs)
        return sum(jnp.square(out - 1.0).mean() for out in jax.tree.leaves(found))

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return step(params, *args), str(step.trace(params, *args).jaxpr).count(" scan[")


def assert_equal_programs(plain, looped):
    (plain, no_loops), (looped, loops) = plain, looped
    assert no_loops == 0
    assert loops >= 2  # forward and backward
    # Absolute, too: the gradient of the keys' biases is zero but for rounding.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), plain, looped)


@pytest.mark.parametrize(
    ("remat", "first_only", "packed"),
    [("none", False, False), ("full", False, True), ("light", True, False), ("none", True, True)],
)
def test_bert(draw_params, remat, first_only, packed):
    x, mask = numbers(3, 6, 16), jnp.arange(6) < jnp.array([[6], [4], [3]])
    packing = packing_of(jnp.flatnonzero(mask.reshape(-1), size=14, fill_value=18), (3, 6)) if packed else None
    params = draw_params(Encoder(BERT), x, mask, deterministic=True)
    options = {"packing": packing, "deterministic": True, "first_only": first_only, "importance": True}
    loop = dataclasses.replace(BERT, remat=remat, scan=True)
    assert_equal_programs(*(gradient(Encoder(config), params, x, mask, **options) for config in (BERT, loop)))


@pytest.mark.parametrize(
    ("make", "config", "shape", "remat"),
    [
        (pvt.Stage, PVT, (2, 40, 33, 3), "light"),
        (video_swin.Stage, SWIN, (2, 3, 5, 4, 8), "full"),
        (video_swin.Stage, SWIN, (2, 3, 5, 4, 8), "light"),
        (resnet.Stage, RESNET, (2, 6, 5, 4), "none"),
    ],
    ids=["pvt", "video_swin", "video_swin-light", "resnet"],
)
def test_stages_of_visual_encoders(draw_params, make, config, shape, remat):
    """Of Video Swin's five blocks four are in the loop, of ResNet's four all but the first."""
    x, rates = numbers(*shape), (0.0,) * config.depths[0]
    params = draw_params(make(config, 0, rates, jnp.float32), x, True)
    loop = dataclasses.replace(config, remat=(remat,) * 4, scan=True)
    modules = [make(each, 0, rates, jnp.float32) for each in (config, loop)]
    assert_equal_programs(*(gradient(module, params, x, deterministic=True) for module in modules))


def test_half_precision_keeps_its_type_with_stochastic_depth(draw_params):
    stage = video_swin.Stage(dataclasses.replace(SWIN, scan=True), 0, (0.0, 0.1, 0.2, 0.3, 0.4), jnp.bfloat16)
    x = numbers(2, 3, 5, 4, 8).astype(jnp.bfloat16)
    params = draw_params(stage, x, True)
    out = jax.jit(lambda key: stage.apply(params, x, False, rngs={"dropout": key}))
    first, again, other = out(jax.random.key(0)), out(jax.random.key(0)), out(jax.random.key(1))
    assert first.dtype == jnp.bfloat16
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_rate_may_be_an_array():
    x, key = numbers(64, 2), {"dropout": jax.random.key(0)}
    plain, given = (DropPath(rate).apply({}, x, False, rngs=key) for rate in (0.25, jnp.float32(0.25)))
    np.testing.assert_allclose(given, plain, rtol=1e-6)
    assert 0 < (given == 0).all(axis=1).sum() < 32


class Noise(nn.Module):
    """Adds its parameter and a draw."""

    @nn.compact
    def __call__(self, x):
        return x + self.param("shift", nn.initializers.ones, ()) + jax.random.normal(self.make_rng("dropout"))


class Sum(nn.Module):
    """Six noises in rounds of two: what each drew, the last one first, and the sum of the rates."""

    rates: tuple[float, ...] = ()

    @nn.compact
    def __call__(self, x):
        looped = loop_length(self, True, 6, period=2)
        for index in range(looped, 6):
            x = Noise(name=f"noise{index}")(x)
        if not looped:
            return x

        def add(variables, rngs, total, rate):
            drawn = Noise(parent=None).apply(variables, 0.0, rngs=rngs)
            return jnp.roll(total[0], 1).at[0].set(drawn), total[1] + rate

        names = [f"noise{index}" for index in range(looped)]
        return run_loop(self, names, [add, add], (jnp.zeros(6), jnp.zeros(())), rates=self.rates, remat="none")


def test_every_layer_draws_for_itself():
    params = Sum().init({"params": jax.random.key(0), "dropout": jax.random.key(0)}, 0.0)
    assert sorted(params["params"]) == [f"noise{index}" for index in range(6)]
    params["params"]["noise4"]["shift"] = jnp.asarray(100.0)
    drawn, total = Sum((0.0, 0.1, 0.2, 0.3, 0.4, 0.5)).apply(params, 0.0, rngs={"dropout": jax.random.key(1)})
    assert len(set(np.asarray(drawn).tolist())) == 6
    assert drawn[1] > 90 > drawn[0]  # the last but one to run
    assert total == pytest.approx(1.5)


def test_no_loop_of_one_round():
    parent = Sum().bind({"params": {}})
    assert [loop_length(parent, True, layers, 2) for layers in (1, 3, 4, 5)] == [0, 0, 4, 4]
    assert loop_length(parent, False, 12) == 0
