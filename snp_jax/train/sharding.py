"""The device mesh, and where batches and parameters live on it.

Axes: `data` and `fsdp`. The batch is split over both; parameters and optimiser slots are replicated over `data` and split over
`fsdp` by path rules. The same program runs on one device and on many.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from snp_jax.errors import UserError
from snp_jax.train.optim import parameter_path

BATCH_AXES = ("data", "fsdp")

PARAMETER_RULES: tuple[tuple[str, P], ...] = (
    (r"(^|/)kernel$", P("fsdp")),  # last axis: output features
    (r"(^|/)embedding$", P("fsdp")),  # last axis: width
    (r".*", P()),
)
"""Ordered (pattern, spec of the LAST axes) rules on state paths; the first match decides. A last axis that the mesh does not
divide stays replicated."""


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """Sizes of the mesh axes; one of them may be -1 = all devices that are left."""

    data: int
    fsdp: int


def make_mesh(options: MeshOptions) -> Mesh:
    """Builds the mesh over all devices.

    Raises:
        UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    sizes = [options.data, options.fsdp]
    if sizes.count(-1) == 1:
        known = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = devices // max(known, 1)
    if min(sizes) < 1 or int(np.prod(sizes)) != devices:
        raise UserError(f"config.mesh: data={options.data} x fsdp={options.fsdp} does not give the {devices} devices present")
    return jax.make_mesh(tuple(sizes), BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over all devices."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises `UserError` when the devices cannot share the batch evenly."""
    if batch_size % mesh.size:
        raise UserError(f"config.batch_size={batch_size} is not a multiple of the {mesh.size} devices")


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
    """Sharding of every leaf of a state tree, by `PARAMETER_RULES`."""

    def place(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = parameter_path(path)
        spec = next(spec for pattern, spec in PARAMETER_RULES if re.search(pattern, name))
        ranked = len(spec) <= leaf.ndim
        even = ranked and all(
            axis is None or leaf.shape[leaf.ndim - len(spec) + i] % mesh.shape[axis] == 0 for i, axis in enumerate(spec)
        )
        padding = (None,) * (leaf.ndim - len(spec)) if ranked else ()
        return NamedSharding(mesh, P(*padding, *spec) if even else P())

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def spreader(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """A function that keeps an array's leading axis split over the devices, where they divide it."""
    sharding = batch_sharding(mesh)

    def spread(x: jax.Array) -> jax.Array:
        if mesh.size == 1 or x.shape[0] % mesh.size:
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
