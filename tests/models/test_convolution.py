"""The CPU and the accelerator form of each operation compute the same values and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.models import backend
from snp_jax.models.convolution import conv2d, depthwise_conv3x3
from snp_jax.models.layers import LayerNorm


def value_and_gradients(function, platform, *arguments):
    with backend.lower_for(platform):
        output, pull = jax.vjp(function, *arguments)
        weights = jnp.sin(jnp.arange(output.size, dtype=jnp.float32)).reshape(output.shape)
        return [output, *pull(weights)]


def assert_forms_agree(function, *arguments):
    ours = value_and_gradients(function, "cpu", *arguments)
    reference = value_and_gradients(function, "tpu", *arguments)
    for a, b in zip(ours, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("height, width", [(5, 7), (1, 1), (16, 3), (37, 4)])
def test_depthwise(height, width):
    assert_forms_agree(depthwise_conv3x3, normal(0, 2, height, width, 6), normal(1, 3, 3, 1, 6))


@pytest.mark.parametrize(
    "size, stride, padding, height, width",
    [
        (7, 4, 3, 21, 30),
        (3, 2, 1, 9, 8),
        (8, 8, 0, 17, 24),
        (2, 2, 0, 6, 7),
        (1, 2, 0, 5, 6),
        (3, 1, 1, 5, 4),
    ],
)
def test_strided(size, stride, padding, height, width):
    def convolve(x, kernel):
        return conv2d(x, kernel, stride, padding)

    x, kernel = normal(0, 2, height, width, 3), normal(1, size, size, 3, 5)
    assert_forms_agree(convolve, x, kernel)
    expected = (height + 2 * padding - size) // stride + 1, (width + 2 * padding - size) // stride + 1
    assert convolve(x, kernel).shape == (2, *expected, 5)


def test_layer_norm():
    layer = LayerNorm(1e-5)

    def apply(x, scale, bias):
        return layer.apply({"params": {"scale": scale, "bias": bias}}, x)

    x = 3 * normal(0, 2, 4, 8) + 1
    assert_forms_agree(apply, x, normal(1, 8), normal(2, 8))
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(apply(x, jnp.ones(8), jnp.zeros(8)), wanted, atol=1e-5)


def test_the_forced_backend_decides():
    def convolve(x, kernel):
        return depthwise_conv3x3(x, kernel)

    def jaxpr():
        return str(jax.make_jaxpr(lambda x, k: convolve(x, k))(normal(0, 1, 4, 4, 2), normal(1, 3, 3, 1, 2)))

    assert "conv_general_dilated" not in jaxpr()
    with backend.lower_for("tpu"):
        assert "feature_group_count=2" in jaxpr()
    assert "conv_general_dilated" not in jaxpr()
