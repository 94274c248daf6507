"""From a config and a topology to a report: the mesh, the batch (given, or sought), compilation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from snp_jax.aot.chips import Topology, topology_devices
from snp_jax.aot.compiling import Compiled, TooLarge, compile_program, is_quick
from snp_jax.aot.program import Program, evaluation_program, train_program
from snp_jax.aot.report import Report, make_report
from snp_jax.train import build, sharding

FIRST_PER_DEVICE = 128
"""Where the search for a batch begins; it goes down, since what does not fit is refused before most of the compiler's work."""


class Attempt(NamedTuple):
    """What came of one batch."""

    report: Report
    outcome: Compiled | TooLarge


def measure(
    config: ConfigDict,
    topology: Topology,
    *,
    batch: int | None,
    step: str,
    say: Callable[[str], None],
    keep: Path | None = None,
) -> Report:
    """Compiles a step of `config` for a slice.

    Args:
        batch: global; in evaluation videos or pairs a pass. None = the largest power of two a chip that fits, or, where
            compilation is full and so the estimate the compiler's, the one below it that gives most examples a second.
        step: "train", "videos" or "pairs".
        say: told what is being compiled.
        keep: file for the program's text.

    Raises:
        UserError: the config is wrong, the devices cannot share the batch, or not even one example a chip fits.
    """
    devices = topology_devices(topology)

    def attempt(batch: int) -> Attempt:
        return _attempt(config, topology, devices, batch, step, say)

    if batch is not None:
        report, outcome = attempt(batch)
    else:
        report, outcome = search(lambda a_chip: attempt(a_chip * len(devices)), by_time=not is_quick())
    if keep is not None and isinstance(outcome, Compiled):
        keep.write_text(outcome.text)
    return report


def search(attempt: Callable[[int], Attempt], *, by_time: bool) -> Attempt:
    """Tries examples a chip, from `FIRST_PER_DEVICE` down: the first that fits, or the last if none does.

    Args:
        by_time: goes on, by halves, as long as more examples a second come out.
    """
    tried = []

    def noted(a_chip: int) -> Attempt:
        found = attempt(a_chip)
        tried.append({key: found.report.get(key) for key in ("global_batch", "fits", "examples_per_s", "mfu")})
        return found

    a_chip = FIRST_PER_DEVICE
    best = noted(a_chip)
    while not best.report["fits"] and (a_chip := _smaller(a_chip, best.report)) >= 1:
        best = noted(a_chip)
    while by_time and best.report["fits"] and (a_chip := a_chip // 2) >= 1:
        smaller = noted(a_chip)
        if smaller.report["examples_per_s"] <= best.report["examples_per_s"]:
            break
        best = smaller
    return Attempt(best.report | {"tried": tried}, best.outcome)


def _smaller(a_chip: int, report: Report) -> int:
    """The next batch to try: memory is about linear in it."""
    needed, limit = report["hbm_gib"]["total"], report["hbm_gib"]["limit"]
    guess = a_chip * limit / needed if needed else a_chip / 2
    return min(a_chip // 2, 2 ** math.floor(math.log2(max(guess, 0.5)))) if guess >= 1 else a_chip // 2


def _attempt(
    config: ConfigDict, topology: Topology, devices: Sequence[Any], batch: int, step: str, say: Callable[[str], None]
) -> Attempt:
    config = with_batch(config, batch, step)
    mesh = topology_mesh(config, devices, batch, step)
    say(f"tracing and compiling: global batch {batch} on {topology.name} ...")
    program = make_program(config, mesh, "tpu", step)
    outcome = compile_program(program.traced)
    return Attempt(make_report(program, outcome, topology), outcome)


def make_program(config: ConfigDict, mesh: Mesh, platform: str, step: str) -> Program:
    """The program that `step` names."""
    if step == "train":
        return train_program(config, mesh, platform)
    return evaluation_program(config, mesh, platform, step)


def with_batch(config: ConfigDict, batch: int, step: str) -> ConfigDict:
    """A copy of `config` for another batch; pairs are compared in groups of the same size (`matching.local_groups`)."""
    config = ConfigDict(config.to_dict(), convert_dict=True)
    if step == "videos":
        config.evaluation.batch_size = batch
    elif step == "pairs":
        config.evaluation.chunk = batch
    else:
        if config.task in ("pretrain", "retrieval") and config.objective.matching.local_groups > 1:
            together = config.batch_size // config.objective.matching.local_groups
            config.objective.matching.local_groups = max(batch // together, 1)
        config.batch_size = batch
    return config


def topology_mesh(config: ConfigDict, devices: Sequence[Any], batch: int, step: str) -> Mesh:
    """The mesh of `config.mesh` over described devices. Chips that a small batch leaves over go to the `model` axis.

    Raises:
        UserError: the sizes do not give the number of devices.
    """
    sizes = {axis: config.mesh[axis] for axis in sharding.MESH_AXES}
    if -1 in sizes.values():
        free = next(axis for axis, size in sizes.items() if size == -1)
        sizes[free] = max(len(devices) // math.prod(size for axis, size in sizes.items() if axis != free), 1)
    shares = math.gcd(sizes["data"] * sizes["fsdp"], batch)
    left_over = sizes["data"] * sizes["fsdp"] // max(shares, 1)
    if left_over > 1:
        sizes["fsdp"] = math.gcd(sizes["fsdp"], shares)
        sizes |= {"data": shares // sizes["fsdp"], "model": sizes["model"] * left_over}
    if step == "train":
        config.mesh.update(sizes)
        return build.build_mesh(config, devices)
    return sharding.make_mesh(sharding.MeshOptions(**sizes), devices)
