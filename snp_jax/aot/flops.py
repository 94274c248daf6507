"""Counts the floating-point operations of matrix products and convolutions in a jaxpr, loops as often as they run.

The compiler's own analysis counts the body of a loop once. Elementwise work is left out: on a TPU it is bounded by memory, and
MFU is by custom a share of the matrix units' peak.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

Jaxpr = core.ClosedJaxpr | core.Jaxpr
Own = Callable[[core.JaxprEqn], float | None]


def live(jaxpr: core.ClosedJaxpr) -> core.Jaxpr:
    """The jaxpr without what no result depends on, which the compiler drops too."""
    return partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))[0]


def count_flops(jaxpr: Jaxpr) -> float:
    """Operations of one evaluation over all devices, a multiply-add being two.

    Loops of unknown length (`while_loop`) count once, a condition as its dearest branch, the body of a `shard_map` once for
    every device of its mesh.
    """
    return _total(jaxpr, _own_flops)


def count_recomputed(jaxpr: Jaxpr) -> float:
    """How many of `count_flops` a gradient spends on values that it computes a second time (`jax.checkpoint`)."""
    return _total(jaxpr, _own_recomputed)


def _total(jaxpr: Jaxpr, own: Own) -> float:
    return sum(_of_equation(equation, own) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _of_equation(equation: core.JaxprEqn, own: Own) -> float:
    """What `own` says of an equation; where it says None, of what is inside, as often as that runs."""
    value = own(equation)
    if value is not None:
        return value
    parts = [_total(each, own) for item in equation.params.values() for each in _jaxprs(item)]
    return _runs(equation) * (max(parts) if equation.primitive.name == "cond" else sum(parts))


def _own_flops(equation: core.JaxprEqn) -> float | None:
    if equation.primitive.name == "pallas_call":
        return _kernel(equation)
    count = {"dot_general": _dot, "conv_general_dilated": _convolution}.get(equation.primitive.name)
    return None if count is None else count(equation)


def _own_recomputed(equation: core.JaxprEqn) -> float | None:
    """JAX marks what a checkpointed function computes again in the names of operations."""
    if "rematted_computation" in str(equation.source_info.name_stack):
        return _of_equation(equation, _own_flops)
    return 0.0 if _own_flops(equation) is not None else None


def _runs(equation: core.JaxprEqn) -> int:
    """How often the jaxprs of an equation run."""
    params = equation.params
    if equation.primitive.name == "scan":
        return params["length"]
    if equation.primitive.name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return 1


def _jaxprs(value: Any) -> list[Any]:
    """The jaxprs in a parameter of an equation (`jit`, `remat`, `custom_vjp_call`, `while`, ...)."""
    if isinstance(value, (core.ClosedJaxpr, core.Jaxpr)):
        return [value]
    if isinstance(value, (tuple, list)):
        return [each for item in value for each in _jaxprs(item)]
    return []


def _kernel(equation: core.JaxprEqn) -> float:
    """What the kernel says of itself: it may compute more than is needed, to fill the matrix units."""
    estimate = equation.params["cost_estimate"]
    if estimate is None:
        raise ValueError(f"the kernel {equation.params['name_and_src_info']} has no cost_estimate, so its work is unknown")
    return float(estimate.flops)


def _dot(equation: core.JaxprEqn) -> float:
    """Two per element of the result and of the contracted axes."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: core.JaxprEqn) -> float:
    """Two per element of the result, tap of the window that meets a real input, and input channel of a group."""
    params = equation.params
    numbers = params["dimension_numbers"]
    left, right = (var.aval.shape for var in equation.invars)
    result = equation.outvars[0].aval.shape
    taps = 1
    for i, (low, _) in enumerate(params["padding"]):
        taps *= valid_taps(
            size=left[numbers.lhs_spec[2 + i]], window=right[numbers.rhs_spec[2 + i]], result=result[numbers.out_spec[2 + i]],
            stride=params["window_strides"][i], low=low, dilation=params["lhs_dilation"][i],
            window_dilation=params["rhs_dilation"][i],
        )  # fmt: skip
    channels = right[numbers.rhs_spec[1]]  # of one feature group
    return 2.0 * result[numbers.out_spec[0]] * result[numbers.out_spec[1]] * channels * taps


@functools.cache
def valid_taps(*, size: int, window: int, result: int, stride: int, low: int, dilation: int, window_dilation: int) -> int:
    """How many (result, window) positions of one axis meet an element of the input, neither padding nor a hole.

    Compilers write batched matrix products as convolutions in which all but one tap are holes, so this decides the count.

    Args:
        size: of the input, without its holes.
        low: padding in front; may be negative.
        dilation, window_dilation: 1 = no holes.
    """
    taps = 0
    for tap in range(window):
        offset = tap * window_dilation - low
        last = (size - 1) * dilation
        # result positions r with 0 <= r * stride + offset <= last
        first = max(0, -(offset // stride))
        after = min(result, (last - offset) // stride + 1)
        if after <= first:
            continue
        if dilation == 1:
            taps += after - first
        else:
            taps += int(np.count_nonzero((np.arange(first, after) * stride + offset) % dilation == 0))
    return taps
