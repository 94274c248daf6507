"""LayerNorm of rows as a kernel for TPUs.

XLA goes through the rows three times, in both directions, and sums along lanes cost it more than the traffic of the memory
(`docs/performance.md`). The kernel reads and writes every row once.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from snp_jax.models.kernel_parts import ALIGNMENT, bytes_of, largest_divisor

MOST_VALUES = 2**18
"""Rows x channels of a step of the kernel's grid, at most: the backward pass holds four such arrays twice."""
SUBLANES = 8
"""Rows of a vector register of float32."""


def rows_of_step(rows: int, channels: int) -> int | None:
    """Rows that a step of the kernel's grid takes of `[rows, channels]`, or None where no number of them divides."""
    return largest_divisor(rows, MOST_VALUES // channels, ALIGNMENT)


def normalise_by_kernel(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype: Any, *, interpret: bool = False
) -> jax.Array:
    """`(x - mean) / sqrt(variance + epsilon) * scale + bias` of each row.

    Args:
        x: `[R, C]`, whole on one device; R has `rows_of_step`.
        scale, bias: float32 `[C]`.
        dtype: of the result; the arithmetic is float32.
        interpret: runs elsewhere than on a TPU, slowly.
    """
    return _normalise(x, scale, bias, epsilon, jnp.dtype(dtype), interpret)


def branch_by_kernel(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype: Any, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """x itself and `normalise_by_kernel` of it, for a residual branch that starts with a norm.

    The backward pass gets the gradients of both and adds them up in the kernel; XLA would read and write all rows once more.
    """
    return _branch(x, scale, bias, epsilon, jnp.dtype(dtype), interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _normalise(x, scale, bias, epsilon, dtype, interpret):
    out = jax.ShapeDtypeStruct(x.shape, dtype)
    return _run(_forward, "layer_norm", (x,), (scale, bias), (out,), epsilon, interpret)[0]


def _normalise_forward(x, scale, bias, epsilon, dtype, interpret):
    return _normalise(x, scale, bias, epsilon, dtype, interpret), (x, scale)


def _normalise_backward(epsilon, dtype, interpret, saved, gradient, *beside):
    x, scale = saved
    partial = jax.ShapeDtypeStruct((SUBLANES, x.shape[-1]), jnp.float32)
    results = jax.ShapeDtypeStruct(x.shape, x.dtype), partial, partial
    d_x, d_scale, d_bias = _run(_backward, "layer_norm_backward", (x, gradient, *beside), (scale,), results, epsilon, interpret)
    return d_x, d_scale.sum(0), d_bias.sum(0)


_normalise.defvjp(_normalise_forward, _normalise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _branch(x, scale, bias, epsilon, dtype, interpret):
    return x, _normalise(x, scale, bias, epsilon, dtype, interpret)


def _branch_forward(x, scale, bias, epsilon, dtype, interpret):
    return _branch(x, scale, bias, epsilon, dtype, interpret), (x, scale)


def _branch_backward(epsilon, dtype, interpret, saved, gradients):
    beside, gradient = gradients
    return _normalise_backward(epsilon, dtype, interpret, saved, gradient, beside)


_branch.defvjp(_branch_forward, _branch_backward)


def _run(kernel, name, arrays, parameters, results, epsilon, interpret) -> list[jax.Array]:
    """Calls a kernel, which gets and gives some rows of `[R, C]` a step; other arrays are whole in every step."""
    rows, channels = arrays[0].shape
    step = rows_of_step(rows, channels)

    def block(array: Any) -> pl.BlockSpec:
        if array.shape[0] == rows:
            return pl.BlockSpec((step, channels), lambda i: (i, 0))
        return pl.BlockSpec(array.shape, lambda i: (0, 0))

    parameters = [each[None] for each in parameters]
    return pl.pallas_call(
        functools.partial(kernel, epsilon=epsilon),
        grid=(rows // step,),
        in_specs=[block(each) for each in (*arrays, *parameters)],
        out_specs=[block(each) for each in results],
        out_shape=list(results),
        cost_estimate=pl.CostEstimate(
            flops=0,  # no matrix products
            transcendentals=rows,
            bytes_accessed=bytes_of((*arrays, *results)),
        ),
        interpret=interpret,
        name=name,
    )(*arrays, *parameters)


def _forward(x, scale, bias, out, *, epsilon: float) -> None:
    unit, _ = _unit(x, epsilon)
    out[...] = (unit * scale[...] + bias[...]).astype(out.dtype)


def _backward(x, gradient, *others, epsilon: float) -> None:
    *beside, scale, d_x, d_scale, d_bias = others

    @pl.when(pl.program_id(0) == 0)
    def _():
        d_scale[...] = jnp.zeros(d_scale.shape, d_scale.dtype)
        d_bias[...] = jnp.zeros(d_bias.shape, d_bias.dtype)

    unit, inverse = _unit(x, epsilon)
    given = gradient[...].astype(jnp.float32)
    d_unit = given * scale[...]
    total = inverse * (d_unit - _row_mean(d_unit) - unit * _row_mean(d_unit * unit))
    for each in beside:
        total += each[...].astype(jnp.float32)
    d_x[...] = total.astype(d_x.dtype)
    d_scale[...] += _fold(given * unit)
    d_bias[...] += _fold(given)


def _unit(x: Any, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Rows with mean 0 and variance 1, and by what they were multiplied."""
    values = x[...].astype(jnp.float32)
    centred = values - _row_mean(values)
    inverse = lax.rsqrt(_row_mean(centred * centred) + epsilon)
    return centred * inverse, inverse


def _row_mean(x: jax.Array) -> jax.Array:
    return x.sum(axis=-1, keepdims=True) * (1 / x.shape[-1])


def _fold(x: jax.Array) -> jax.Array:
    """`[R, C]` -> `[SUBLANES, C]` with the same sum over rows: what is left adds up inside registers, at the end."""
    return x.reshape(-1, SUBLANES, x.shape[-1]).sum(axis=0)
