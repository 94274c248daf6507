"""Lowers a config's step for CUDA on a machine without a GPU, and writes it as a `jax.export` file.

The file holds StableHLO for a given number of devices, shardings included. It takes the leaves of (state, batch) and returns
those of (state, metrics), in tree order, so that it loads without this package; weights are no part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
from jax import export
from ml_collections import ConfigDict

from snp_jax.aot.flops import count_flops, live
from snp_jax.aot.measure import make_program, topology_mesh, with_batch
from snp_jax.aot.program import Program
from snp_jax.aot.report import Report
from snp_jax.errors import UserError
from snp_jax.models.backend import lower_for

MAX_DEVICES = 1024


def export_for_gpu(config: ConfigDict, topology: str, batch: int, step: str, file: Path | None) -> Report:
    """Lowers a step for `gpu:<n>`; no backend of JAX may be in use yet.

    Returns:
        `devices`, `global_batch`, `flops_per_device`, `stablehlo_bytes`, and `summary`, a sentence.

    Raises:
        UserError: `topology` is not `gpu:<n>`.
    """
    count = topology.partition(":")[2]
    if not count.isdigit() or not 1 <= int(count) <= MAX_DEVICES:
        raise UserError(f"--topology {topology}: write gpu:<number of GPUs>, 1 to {MAX_DEVICES}")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(count))  # they stand for the GPUs in the shardings
    config = with_batch(config, batch, step)
    mesh = topology_mesh(config, jax.devices(), batch, step)
    program = make_program(config, mesh, "gpu", step)
    leaves = jax.tree.leaves((program.state, program.batch))
    with lower_for("gpu"):
        exported = export.export(jax.jit(_on_leaves(program)), platforms=("cuda",))(*leaves)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_serialise(exported))
    flops = count_flops(live(program.traced.jaxpr)) / mesh.size
    size = len(exported.mlir_module_serialized)
    return {
        "topology": topology,
        "devices": exported.nr_devices,
        "mesh": dict(mesh.shape),
        "step": step,
        "global_batch": batch,
        "flops_per_device": flops,
        "stablehlo_bytes": size,
        "platforms": list(exported.platforms),
        "summary": f"lowered for {count} CUDA device(s): {size / 2**20:.1f} MiB of StableHLO, {flops:.3g} flops each",
    }


def _on_leaves(program: Program) -> Callable[..., list[jax.Array]]:
    """The program's step as a function of arrays."""
    structure = jax.tree.structure((program.state, program.batch))

    def run(*leaves: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(program.call(*jax.tree.unflatten(structure, leaves)))

    return run


def _serialise(exported: export.Exported) -> bytes:
    try:
        return exported.serialize()
    except ImportError as error:
        raise UserError(f"--export needs {error.name}: pip install 'snp-jax[gpu-export]'") from None
