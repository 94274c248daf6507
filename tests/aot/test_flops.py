"""Counting operations in a jaxpr: loops, recomputation, convolutions with holes, shards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from snp_jax.aot.flops import count_flops, count_recomputed, live, valid_taps

LAYERS, WIDTH, ROWS = 4, 16, 8
ONE = 2 * ROWS * WIDTH * WIDTH  # a product of a layer


def layer(x, weights):
    return jnp.tanh(jnp.tanh(x @ weights[0]) @ weights[1])


def gradient(scanned, remat):
    """The jaxpr of the gradient of `LAYERS` layers."""
    one = jax.checkpoint(layer) if remat else layer

    def loss(weights, x):
        if scanned:
            x, _ = jax.lax.scan(lambda x, w: (one(x, w), None), x, weights)
        else:
            for i in range(LAYERS):
                x = one(x, weights[i])
        return (x**2).sum()

    shapes = jax.ShapeDtypeStruct((LAYERS, 2, WIDTH, WIDTH), jnp.float32), jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
    return jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(*shapes)


@pytest.mark.parametrize("remat", [False, True])
def test_scanned_and_unrolled_layers_count_alike(remat):
    scanned, unrolled = (gradient(each, remat) for each in (True, False))
    forward = 2 * LAYERS * ONE
    assert count_flops(scanned) == count_flops(unrolled) == forward * (4 if remat else 3)
    assert count_recomputed(scanned) == count_recomputed(unrolled) == (forward if remat else 0)


def test_what_nothing_depends_on_does_not_count():
    def f(x):
        unused = jax.lax.map(lambda row: row @ x, x)
        return x @ x, unused.shape[0]

    jaxpr = jax.make_jaxpr(f)(jax.ShapeDtypeStruct((8, 8), jnp.float32))
    assert count_flops(jaxpr) == 2 * count_flops(live(jaxpr)) == 2 * 2 * 8**3


def test_dearest_branch_and_inner_functions():
    def f(choice, x):
        return jax.lax.cond(choice, lambda x: x @ x.T @ x, lambda x: x * 2, jax.jit(lambda x: x @ x.T @ x)(x))

    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    assert count_flops(jax.make_jaxpr(f)(jax.ShapeDtypeStruct((), jnp.bool_), x)) == 4 * (2 * 4 * 4 * 8)


def test_the_body_of_a_shard_map_counts_for_every_device():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    f = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(P(("data", "fsdp")), P()), out_specs=P(("data", "fsdp")))
    shapes = jax.ShapeDtypeStruct((16, 32), jnp.float32), jax.ShapeDtypeStruct((32, 8), jnp.float32)
    assert count_flops(jax.make_jaxpr(f)(*shapes)) == 2 * 16 * 32 * 8


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 1, 1), (2, 0, 1), (1, 1, 6), (2, 1, 3)])
def test_convolutions(stride, padding, groups):
    x, kernel = jax.ShapeDtypeStruct((2, 7, 9, 6), jnp.float32), jax.ShapeDtypeStruct((3, 3, 6 // groups, 12), jnp.float32)

    def f(x, kernel):
        pads = ((padding, padding),) * 2
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, pads, dimension_numbers=numbers, feature_group_count=groups
        )

    taps = 1
    for size in (7, 9):
        starts = range(-padding, size + padding - 2, stride)
        taps *= sum(0 <= start + k < size for start in starts for k in range(3))
    forward = 2 * 2 * 12 * (6 // groups) * taps
    assert count_flops(jax.make_jaxpr(f)(x, kernel)) == forward
    both = jax.make_jaxpr(jax.grad(lambda *a: f(*a).sum(), argnums=(0, 1)))(x, kernel)
    assert count_flops(both) == 3 * forward  # the forward pass is kept though its value is not used


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("window_dilation", [1, 2])
@pytest.mark.parametrize(("stride", "low"), [(1, 0), (2, 1), (5, -1)])
def test_taps_that_meet_an_element(dilation, window_dilation, stride, low):
    size, window, result = 5, 4, 6
    found = 0
    for r in range(result):
        for k in range(window):
            position = r * stride + k * window_dilation - low
            found += 0 <= position <= (size - 1) * dilation and position % dilation == 0
    options = {"size": size, "window": window, "result": result, "stride": stride, "low": low}
    assert valid_taps(**options, dilation=dilation, window_dilation=window_dilation) == found
    assert isinstance(valid_taps(**options, dilation=dilation, window_dilation=window_dilation), (int, np.integer))
