"""The training state and how it comes into being: shapes first, then shardings, then memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from snp_jax.data.pipeline import ClipSpec
from snp_jax.models import backend
from snp_jax.models.snp import SNP
from snp_jax.models.tagger import Tagger
from snp_jax.train.sharding import put_whole, state_shardings

Init = Callable[[], Any]
InitMemory = Callable[[Any], Any]


@flax.struct.dataclass
class TrainState:
    """Everything an update changes.

    Attributes:
        step: int32 scalar, updates done.
        params: parameter tree.
        opt_state: optimiser state.
        memory: what the task hands from step to step (MoCo's queues and key encoders); None where it has none.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    memory: Any = None


def init_params(model: SNP | Tagger, key: jax.Array, *, spec: ClipSpec) -> Any:
    """Fresh parameters for clips of `spec`; `cross_pooler` starts as a copy of `pooler` (SNP-S3 section III-A)."""
    frames = jnp.zeros((1, spec.num_frames, *spec.network_size, 3), jnp.float32)
    ids = jnp.zeros((1, 4), jnp.int32)
    masks = jnp.ones(frames.shape[:2], bool), jnp.ones(ids.shape, bool)
    variables = model.init(key, frames, masks[0], ids, masks[1], num_clips=spec.num_clips)
    params = dict(variables["params"])
    if "pooler" in params:  # a tagger has none
        params["cross_pooler"] = jax.tree.map(jnp.copy, params["pooler"])
    return params


def _fresh(params: Any, tx: optax.GradientTransformation, init_memory: InitMemory) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), init_memory(params))


def abstract_state(init: Init, tx: optax.GradientTransformation, mesh: Mesh, init_memory: InitMemory) -> TrainState:
    """Shapes, dtypes and shardings of the state, without memory. `init()` gives parameters, `init_memory` the task's part."""
    shapes = jax.eval_shape(lambda: _fresh(init(), tx, init_memory))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh),
    )


def create_state(init: Init, tx: optax.GradientTransformation, mesh: Mesh, init_memory: InitMemory) -> TrainState:
    """A fresh state."""
    abstract = abstract_state(init, tx, mesh, init_memory)
    return start_state(create_params(init, abstract.params), abstract, tx, init_memory)


def create_params(init: Init, abstract: Any, parts: Iterable[str] | None = None) -> dict[str, Any]:
    """Fresh parameters with the shardings of the tree `abstract`: the same numbers on every accelerator.

    The host's processor makes them: the program is random numbers of many shapes and runs once, and for a GPU it compiles for
    over two minutes. No optimiser is part of it, so that the next run of the same model finds it in the compilation cache.

    Args:
        parts: top-level parts of the model to make; default: all.
    """
    made = abstract if parts is None else {part: abstract[part] for part in parts}
    if not made:
        return {}

    def make() -> dict[str, Any]:
        params = init()  # once: every call would be traced and compiled
        return {part: params[part] for part in made}

    host = _host()
    hurried = {"xla_backend_optimization_level": 0} if host.platform == "cpu" else None
    with jax.default_device(host), backend.lower_for(host.platform):
        params = jax.jit(make, compiler_options=hurried)()
    return jax.tree.map(lambda leaf, like: put_whole(leaf, like.sharding), params, made)


def _host() -> jax.Device:
    """This process's CPU, or its first device where JAX_PLATFORMS leaves the CPU out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def start_state(params: Any, abstract: TrainState, tx: optax.GradientTransformation, init_memory: InitMemory) -> TrainState:
    """The state of step 0 with these parameters (donated); the task's memory starts from them."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(lambda params: _fresh(params, tx, init_memory), out_shardings=shardings, donate_argnums=0)(params)
