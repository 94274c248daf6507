"""PVTv2: interface, sizes, masks, drop path, rematerialisation and parameter counts. Parity:
test_visual_goldens.py."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.models.layers import drop_path_rates, grid_mask
from snp_jax.models.pvt import PVT, PVT_CONFIGS, PVTConfig, Stage, adaptive_mean

TINY = PVTConfig((8, 8, 16, 16), (1, 1, 1, 1), (1, 1, 2, 2), (2, 2, 2, 2), (8, 4, 2, 1), drop_path=0.5)


def assert_close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def frames(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("linear", [False, True])
def test_odd_sizes_and_frame_independence(linear, draw_params):
    config = dataclasses.replace(TINY, linear=linear)
    video = frames(2, 2, 70, 45, 3)
    params = draw_params(PVT(config), video, deterministic=True)
    encode = jax.jit(lambda x: PVT(config).apply(params, x, deterministic=True).grid)
    grid = encode(video)
    assert grid.shape == (2, 2, 3, 2, 16)
    changed = encode(video.at[0, 1].add(1.0))
    np.testing.assert_allclose(changed[0, 0], grid[0, 0], atol=1e-6)
    assert np.abs(changed[0, 1] - grid[0, 1]).max() > 1e-3


def test_mask_reads_the_floor_pixel():
    mask = np.zeros((1, 1, 70, 45), bool)
    mask[:, :, :24, :23] = True  # rows read are 0, 23, 46; columns 0, 22
    got = grid_mask(jnp.asarray(mask), (1, 1, 3, 2))
    np.testing.assert_array_equal(got[0, 0], [[True, True], [True, True], [False, False]])
    assert grid_mask(None, (1, 2, 3, 2, 16)).all()


def test_drop_path_follows_its_key(draw_params):
    video = frames(8, 1, 32, 32, 3)
    params = draw_params(PVT(TINY), video, deterministic=True)

    @jax.jit
    def encode(key):
        return PVT(TINY).apply(params, video, deterministic=False, rngs={"dropout": key}).grid

    first, again, other = encode(jax.random.key(1)), encode(jax.random.key(1)), encode(jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert drop_path_rates(0.4, (1, 2, 2)) == [[0.0], [0.1, 0.2], [pytest.approx(0.3), 0.4]]


def test_remat_changes_nothing(draw_params):
    images = frames(2, 24, 20, 3)

    def gradient(config):
        stage = Stage(config, 0, (0.5,), jnp.float32)

        def loss(params):
            key = {"dropout": jax.random.key(3)}
            return jnp.square(stage.apply(params, images, False, rngs=key) - 1).sum()

        step = jax.jit(jax.grad(loss))
        params = draw_params(stage, images, True)
        return step(params), step.trace(params).jaxpr

    plain, traced = gradient(TINY)
    remat, retraced = gradient(dataclasses.replace(TINY, remat=("full", "none", "none", "none")))
    jax.tree.map(assert_close, remat, plain)
    assert "remat" in str(retraced) and "remat" not in str(traced)


def test_half_precision_stays_close(draw_params):
    images = frames(2, 24, 20, 3)

    def encode(dtype):
        stage = Stage(TINY, 0, (0.0,), dtype)
        return jax.jit(lambda params: stage.apply(params, images, True))(draw_params(stage, images, True))

    full, half = encode(jnp.float32), encode(jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.1)


@pytest.mark.parametrize(
    "name, millions",
    [
        ("b0", 3.41),
        ("b1", 13.50),
        ("b2", 24.849856),
        ("b2_li", 22.04),
        ("b3", 44.73),
        ("b4", 62.04),
        ("b5", 81.44),
    ],
)
def test_parameter_counts(name, millions):
    config = PVT_CONFIGS[name]
    video = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: PVT(config).init(jax.random.key(0), x, deterministic=True), video)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    if name == "b2":
        assert count == 24_849_856
    assert count / 1e6 == pytest.approx(millions, abs=0.01)
    assert config.width == PVT_CONFIGS[name].embed_dims[-1]


def test_adaptive_mean():
    x = jnp.arange(9.0).reshape(1, 9, 1, 1)
    # PyTorch's bins for 9 -> 7: [0,2) [1,3) [2,4) [3,6) [5,7) [6,8) [7,9); a single column is repeated
    wanted = [0.5, 1.5, 2.5, 4.0, 5.5, 6.5, 7.5]
    np.testing.assert_allclose(adaptive_mean(x, 7)[0, :, 0, 0], wanted)
    np.testing.assert_allclose(adaptive_mean(x, 7)[0, :, 6, 0], wanted)


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="4 entries"):
        PVTConfig(depths=(1, 1))
    with pytest.raises(ValueError, match="64 channels of stage 1 do not split into 3 heads"):
        PVTConfig(heads=(3, 2, 5, 8))
