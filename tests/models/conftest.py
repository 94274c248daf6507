"""Parameters for encoder tests without compiling an initialiser."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from snp_jax.models import backend, layers
from snp_jax.models.layer_norm import branch_by_kernel, normalise_by_kernel


@pytest.fixture(scope="session")
def draw_params() -> Callable[..., Any]:
    """`draw_params(model, *args, **kwargs)`: random variables of the right shapes, variances positive."""

    def draw(model, *args, **kwargs):
        rng = np.random.default_rng(7)
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *args, **kwargs))

        def leaf(path, shape):
            values = rng.uniform(-0.2, 0.4, shape.shape).astype(np.float32)
            return np.abs(values) + 0.5 if path[-1].key == "var" else values

        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return draw


@pytest.fixture
def interpret_kernels(monkeypatch) -> Callable[..., list]:
    """`interpret_kernels(module, attend_by_kernel)`: kernels run from now on, interpreted; returns the calls of attention."""

    def start(module, attend):
        calls = []

        def interpreted(*args, **kwargs):
            calls.append(args)
            return attend(*args, **kwargs, interpret=True)

        monkeypatch.setattr(module, "attend_by_kernel", interpreted)
        for norm in (normalise_by_kernel, branch_by_kernel):
            monkeypatch.setattr(layers, norm.__name__, functools.partial(norm, interpret=True))
        monkeypatch.setattr(backend, "kernels_for_tpu", lambda: True)
        return calls

    return start
