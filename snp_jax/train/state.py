"""The training state and how it comes into being: shapes first, then shardings, then memory."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from snp_jax.data.pipeline import ClipSpec
from snp_jax.models.snp import SNP
from snp_jax.train.sharding import state_shardings


@flax.struct.dataclass
class TrainState:
    """Everything an update changes.

    Attributes:
        step: int32 scalar, updates done.
        params: parameter tree.
        opt_state: optimiser state.
    """

    step: jax.Array
    params: Any
    opt_state: Any


def init_params(model: SNP, key: jax.Array, *, spec: ClipSpec) -> Any:
    """Fresh parameters for clips of `spec`; `cross_pooler` starts as a copy of `pooler` (SNP-S3 section III-A)."""
    frames = jnp.zeros((1, spec.num_frames, *spec.image_size, 3), jnp.float32)
    ids = jnp.zeros((1, 4), jnp.int32)
    masks = jnp.ones(frames.shape[:2], bool), jnp.ones(ids.shape, bool)
    variables = model.init(key, frames, masks[0], ids, masks[1], num_clips=spec.num_clips)
    params = dict(variables["params"])
    params["cross_pooler"] = jax.tree.map(jnp.copy, params["pooler"])
    return params


def _fresh(init, tx: optax.GradientTransformation) -> TrainState:
    params = init()
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))


def abstract_state(init, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state, without memory. `init()` gives parameters."""
    shapes = jax.eval_shape(lambda: _fresh(init, tx))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh),
    )


def create_state(init, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A fresh state, created where it will live."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(init, tx, mesh))
    return jax.jit(lambda: _fresh(init, tx), out_shardings=shardings)()
