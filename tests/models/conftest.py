"""Parameters for encoder tests without compiling an initialiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest


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
