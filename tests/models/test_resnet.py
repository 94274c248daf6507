"""ResNet-50: interface, rematerialisation and parameter counts. Parity: test_visual_goldens.py."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np

from snp_jax.models.resnet import FROZEN_PATTERN, ResNet, ResNetConfig

TINY = ResNetConfig((2, 1, 1, 1), (4, 4, 4, 4), 4)


def test_odd_sizes_and_remat(draw_params):
    video = jnp.asarray(np.random.default_rng(0).standard_normal((2, 1, 70, 45, 3)), jnp.float32)
    params = draw_params(ResNet(TINY), video, deterministic=True)
    remat = dataclasses.replace(TINY, remat=("full",) * 4)

    def gradient(config):
        def loss(params):
            grid = ResNet(config).apply(params, video, deterministic=True).grid
            assert grid.shape == (2, 1, 3, 2, 16)
            return jnp.square(grid).sum()

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * np.abs(a).max() + 1e-12),
        gradient(TINY),
        gradient(remat),
    )


def test_parameter_counts():
    video = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: ResNet(ResNetConfig()).init(jax.random.key(0), x, deterministic=True)["params"], video)
    counts = {"frozen": 0, "trained": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        counts["frozen" if re.search(FROZEN_PATTERN, name) else "trained"] += leaf.size
    assert counts == {"trained": 23_454_912, "frozen": 106_240}
