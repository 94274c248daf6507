"""The device mesh, and where batches and parameters live on it.

Axes: `data`, `fsdp` and `model`. The batch is split over the first two; parameters and optimiser slots are replicated over
`data` and split over `fsdp` and `model` by path rules. The same program runs on one device and on many.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from snp_jax.errors import UserError
from snp_jax.train.optim import parameter_path

BATCH_AXES = ("data", "fsdp")
MESH_AXES = (*BATCH_AXES, "model")

PARAMETER_RULES: tuple[tuple[str, P], ...] = (
    (r"(^|/)(query|key|value|mlp_in)/kernel$", P("fsdp", "model")),
    (r"(^|/)(query|key|value|mlp_in)/bias$", P("model")),
    (r"/layer\d+/(attention/out|mlp_out)/kernel$", P("model", "fsdp")),
    (r"(^|/)word/embedding$", P("model", "fsdp")),
    (r"(^|/)(text_words|cross_words)/bias$", P("model")),
    (r"(^|/)kernel$", P("fsdp")),
    (r"(^|/)embedding$", P("fsdp")),
    (r".*", P()),
)
"""Ordered (pattern, spec of the LAST axes) rules on state paths; the first match decides. An axis that the mesh does not divide
stays whole. Over `model`, BERT is split as Megatron does it (Shoeybi et al. 2019): attention heads and the hidden units of the
MLP, so that a layer needs two reductions; and the vocabulary, where the masked-word scores are."""


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """Sizes of the mesh axes; one of them may be -1 = all devices that are left."""

    data: int
    fsdp: int
    model: int = 1


def make_mesh(options: MeshOptions, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh over `devices` (default: all there are). They may be those of a topology that is not present.

    Raises:
        UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [options.data, options.fsdp, options.model]
    if sizes.count(-1) == 1:
        known = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = len(devices) // max(known, 1)
    if min(sizes) < 1 or int(np.prod(sizes)) != len(devices):
        given = f"data={options.data} x fsdp={options.fsdp} x model={options.model}"
        raise UserError(f"config.mesh: {given} does not give the {len(devices)} devices present")
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def batch_shards(mesh: Mesh) -> int:
    """How many parts the batch is split into."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises `UserError` when devices and microbatches cannot share the batch evenly."""
    shards = batch_shards(mesh)
    if accumulate < 1 or batch_size % (shards * accumulate):
        raise UserError(
            f"config.batch_size={batch_size} is not a multiple of the {shards} devices that share it (config.mesh.data x fsdp) "
            f"x {accumulate} microbatches (config.optim.accumulate)"
        )


def rule_of(path: str) -> P:
    """The spec that `PARAMETER_RULES` gives the last axes of what is at a state path."""
    return next(spec for pattern, spec in PARAMETER_RULES if re.search(pattern, path))


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
    """Sharding of every leaf of a state tree, by `PARAMETER_RULES`."""

    def place(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        spec = rule_of(parameter_path(path))
        if len(spec) > leaf.ndim:
            return replicated(mesh)
        first = leaf.ndim - len(spec)
        even = (axis if leaf.shape[first + i] % mesh.shape[axis] == 0 else None for i, axis in enumerate(spec))
        return NamedSharding(mesh, P(*(None,) * first, *even))

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def spreader(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """A function that keeps an array's leading axis split like the batch, where it divides evenly."""
    sharding, shards = batch_sharding(mesh), batch_shards(mesh)

    def spread(x: jax.Array) -> jax.Array:
        if shards == 1 or x.shape[0] % shards:
            return x
        return jax.lax.with_sharding_constraint(x, sharding)

    return spread


def process_rows(batch_size: int, mesh: Mesh) -> list[int]:
    """Rows of the global batch that live on this process's devices, in ascending order: what `put_batch` wants."""
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    return sorted({row for (rows,) in held.values() for row in range(*rows.indices(batch_size))})


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Moves this process's rows of a batch to the devices."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def put_whole(array: jax.Array, sharding: jax.sharding.Sharding) -> jax.Array:
    """Moves an array that every process has whole to where `sharding` says."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    held = np.asarray(array)
    return jax.make_array_from_callback(held.shape, sharding, lambda index: held[index])
