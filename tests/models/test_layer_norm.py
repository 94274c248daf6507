"""LayerNorm: the kernel for TPUs, run by Pallas's interpreter, and the form for the CPU, against XLA's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.models import backend, layers
from snp_jax.models.layer_norm import branch_by_kernel, normalise_by_kernel, rows_of_step

EPSILON = 1e-5


def by_xla(x, scale, bias):
    return layers._normalise(x.astype(jnp.float32), scale, bias, EPSILON).astype(x.dtype)


def by_kernel(x, scale, bias):
    return normalise_by_kernel(x, scale, bias, EPSILON, x.dtype, interpret=True)


def branch(norm):
    return lambda x, *parameters: (x, norm(x, *parameters))


def value_and_gradients(function, rows, channels, dtype):
    """Results and gradients, flat; the gradient that each result gets is another."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(3 * rng.standard_normal((rows, channels)) + 5, dtype)
    scale, bias = (jnp.asarray(rng.standard_normal(channels), jnp.float32) for _ in range(2))
    out, pull = jax.vjp(function, x, scale, bias)
    given = jax.tree.map(lambda each: jnp.asarray(rng.standard_normal(each.shape), dtype), out)
    return *jax.tree.leaves(out), *pull(given)


@pytest.mark.parametrize(("rows", "channels"), [(48, 96), (16, 1024), (4352, 128)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 0.01)])
def test_values_and_gradients(rows, channels, dtype, tolerance):
    """Of one step of the grid, and of four, whose gradients of the parameters add up."""
    assert_close(by_kernel, by_xla, rows, channels, dtype, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 0.01)])
def test_a_branch_adds_the_gradient_that_reaches_its_input_beside_it(dtype, tolerance):
    def ours(x, scale, bias):
        return branch_by_kernel(x, scale, bias, EPSILON, x.dtype, interpret=True)

    assert_close(ours, branch(by_xla), 4352, 128, dtype, tolerance)


def assert_close(ours, theirs, rows, channels, dtype, tolerance):
    sides = (value_and_gradients(each, rows, channels, dtype) for each in (ours, theirs))
    for got, wanted in zip(*sides, strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        got, wanted = (each.astype(jnp.float32) for each in (got, wanted))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_rows_of_a_step():
    assert rows_of_step(25_088, 512) == 512
    assert rows_of_step(4352, 128) == 1088  # of at most 2048
    assert rows_of_step(48, 96) == 48
    assert rows_of_step(40, 96) is None and rows_of_step(8, 96) is None


@pytest.mark.parametrize(("shape", "by_kernel"), [((64, 32), True), ((40, 32), False), ((4, 16, 32), False)])
def test_the_layer_uses_the_kernel_for_rows_it_divides(shape, by_kernel, monkeypatch):
    monkeypatch.setattr(backend, "kernels_for_tpu", lambda: True)
    layer = layers.LayerNorm(EPSILON, jnp.bfloat16)
    program = jax.make_jaxpr(lambda x: layer.init_with_output(jax.random.key(0), x)[0])(jnp.ones(shape, jnp.bfloat16))
    assert ("name=layer_norm" in str(program)) == by_kernel
    assert program.out_avals[0].dtype == jnp.bfloat16


def test_off_tpus_the_layer_is_xla_or_products():
    x = jnp.asarray(np.random.default_rng(1).standard_normal((64, 32)), jnp.float32)
    layer = layers.LayerNorm(EPSILON)
    params = {"params": {"scale": jnp.full(32, 1.5), "bias": jnp.full(32, 0.25)}}
    found = []
    for platform in ("cpu", "gpu"):
        with backend.lower_for(platform):
            found.append(jax.grad(lambda p, x: jnp.square(layer.apply(p, x)).sum(), (0, 1))(params, x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *found)
