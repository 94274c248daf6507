"""Video Swin: sizes, drop path, rematerialisation, parameter counts. Parity:
test_visual_goldens.py."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.models.video_swin import (
    VIDEO_SWIN_CONFIGS,
    Stage,
    VideoSwin,
    VideoSwinConfig,
)

TINY = VideoSwinConfig(embed_dim=8, depths=(2, 1, 1, 1), heads=(1, 2, 2, 2), window=(2, 3, 3), drop_path=0.5)


def assert_close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())


def frames(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def test_odd_sizes_time_mixing_and_pad_mask(draw_params):
    video = frames(1, 3, 70, 45, 3)
    mask = np.ones((1, 3, 70, 45), bool)
    mask[:, :, 40:] = False
    params = draw_params(VideoSwin(TINY), video, deterministic=True)
    encode = jax.jit(lambda x: VideoSwin(TINY).apply(params, x, jnp.asarray(mask), deterministic=True))
    out = encode(video)
    assert out.grid.shape == (1, 3, 3, 2, 64)
    np.testing.assert_array_equal(out.mask[0, 0], [[True, True], [True, True], [False, False]])
    changed = encode(video.at[0, 1].add(1.0)).grid
    assert np.abs(changed[0, 0] - out.grid[0, 0]).max() > 1e-5  # frames are not independent


def test_remat_and_drop_path(draw_params):
    x = frames(4, 2, 5, 4, 8)

    def gradient(config):
        stage = Stage(config, 0, (0.0, 0.5), jnp.float32)

        def loss(params, key):
            return jnp.square(stage.apply(params, x, False, rngs={"dropout": key}) - 1).sum()

        step = jax.jit(jax.value_and_grad(loss))
        params = draw_params(stage, x, True)
        return lambda seed: step(params, jax.random.key(seed))

    plain, remat = gradient(TINY), gradient(dataclasses.replace(TINY, remat=("full", "none", "none", "none")))
    jax.tree.map(assert_close, remat(1), plain(1))
    assert plain(1)[0] == plain(1)[0] != plain(2)[0]


@pytest.mark.parametrize("name, count", [("tiny", 27_850_470), ("small", 49_509_078), ("base", None)])
def test_parameter_counts(name, count):
    video = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), jnp.float32)
    model = VideoSwin(VIDEO_SWIN_CONFIGS[name])
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, deterministic=True), video)
    got = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    if count is None:
        assert 87.5e6 < got < 88.5e6  # the paper says 88 M with its head
    else:
        assert got == count
