"""TPU generations and the slices one can rent: published peaks, and a topology description without the hardware.

Figures are those of Google Cloud's pages on each TPU version. JAX accepts slices that are not sold, hence the list here.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import tempfile
from typing import Any

from snp_jax.errors import UserError

GIB = 2**30
QUICK = "O0"
"""The compiler's level at which it is 3 to 6 times faster: same collectives, memory within a few percent, untuned fusions."""
INSTALL = "pip install 'snp-jax[tpu-aot]'"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip of a TPU generation.

    Attributes:
        flops: bfloat16 multiply-adds a second, each counted as two.
        hbm_bytes: what a program may use, as the compiler says when it runs out.
        hbm_bandwidth: bytes a second.
        ici_bandwidth: bytes a second that a chip can send to its neighbours, all links together.
        clock: cycles a second of the matrix units, `flops` over the multiply-adds a cycle; turns the compiler's cycles to time.
    """

    flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    ici_bandwidth: float
    clock: float


CHIPS = {
    "v4": Chip(275e12, 30.5 * GIB, 1228e9, 300e9, 1.05e9),
    "v5e": Chip(197e12, 15.75 * GIB, 819e9, 200e9, 1.50e9),
    "v5p": Chip(459e12, 95.7 * GIB, 2765e9, 600e9, 1.75e9),
    "v6e": Chip(918e12, 31.2 * GIB, 1640e9, 448e9, 1.75e9),
}
SLICES = {
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x12", "8x8x16", "8x16x16"),
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x24"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}
PRODUCTS = {"v4-32": "v4:2x2x4", "v5e-64": "v5e:8x8", "v5e-256": "v5e:16x16", "v5p-64": "v5p:2x4x4", "v6e-256": "v6e:16x16"}
"""Names of the price list; v4 and v5p count cores, two a chip."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: `name` as `v5e:16x16`, its generation's `chip`, and how many chips it has."""

    name: str
    chip: Chip
    size: int


def find_topology(name: str) -> Topology:
    """A slice by topology (`v5e:16x16`) or by product (`v5e-256`).

    Raises:
        UserError: there is no such slice.
    """
    found = PRODUCTS.get(name, name)
    generation, _, shape = found.partition(":")
    if generation not in CHIPS:
        raise UserError(f"--topology {name}: write <generation>:<chips> as v5e:16x16, the generation one of {', '.join(CHIPS)}")
    if shape not in SLICES[generation]:
        raise UserError(f"--topology {name}: {generation} is offered as {', '.join(SLICES[generation])}")
    size = 1
    for side in shape.split("x"):
        size *= int(side)
    return Topology(found, CHIPS[generation], size)


def prepare_environment(*, quick: bool) -> None:
    """Lets libtpu compile on a machine without a TPU, beside other compilations. To be called before JAX makes a backend.

    Args:
        quick: leave out most optimisations (`compiling.QUICK`).
    """
    import jax

    os.environ.setdefault("TPU_LOG_DIR", tempfile.mkdtemp(prefix="snp_jax_libtpu_"))
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    os.environ.update(settings)
    jax.config.update("jax_platforms", "cpu")
    if quick:
        jax.config.update("jax_optimization_level", QUICK)


def pinned_libtpu() -> str:
    """The requirement that the installed jax states for its `tpu` extra, as "libtpu==0.0.42.*"."""
    wanted = [line for line in importlib.metadata.requires("jax") or () if line.startswith("libtpu")]
    return wanted[0].partition(";")[0].strip() if wanted else "libtpu"


def check_libtpu() -> str:
    """The installed libtpu's version.

    Raises:
        UserError: none is installed, or not the one that jax is made for (others compile, but print programs that cannot
            be read).
    """
    wanted = pinned_libtpu()
    try:
        version = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"compiling for TPUs needs {wanted}, which is not installed: {INSTALL}") from None
    if not f"{version}.".startswith(wanted.partition("==")[2].rstrip("*")):
        raise UserError(f"libtpu {version} is installed, jax {importlib.metadata.version('jax')} needs {wanted}: {INSTALL}")
    return version


def topology_devices(topology: Topology) -> list[Any]:
    """Descriptions of the slice's chips; one device a chip."""
    from jax.experimental import topologies

    options = {"chip_config_name": "megacore"} if topology.name.startswith("v4") else {}
    description = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    return list(description.devices)
