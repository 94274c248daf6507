"""What must not happen in a compiled step, checked on its collectives: each budget has a limit, what was found, and a sentence.

A lost sharding constraint shows nowhere else: the program is right, the compiler warns of nothing, and every step sends the
whole batch around.
"""

from __future__ import annotations

from typing import Any

import jax

from snp_jax.aot.collectives import Collective
from snp_jax.aot.program import Program
from snp_jax.train.sharding import BATCH_AXES

MIB = 2**20
SLACK = 1.25
"""Allows for small reductions beside those of the gradients, such as loss terms."""


def check_budgets(program: Program, found: list[Collective]) -> list[dict[str, Any]]:
    """`[{"name", "limit_mib", "found_mib", "ok", "sentence"}]`; `sentence` is None where the budget is kept."""
    if program.mesh.size == 1:
        return []
    budgets = [_largest(program, found)]
    if program.name == "train" and all(size == 1 or axis in BATCH_AXES for axis, size in program.mesh.shape.items()):
        budgets.append(_reductions(program, found))
    return budgets


def _largest(program: Program, found: list[Collective]) -> dict[str, Any]:
    """No collective moves an array as large as the global batch, parameters excepted."""
    batch = tree_bytes(program.batch)
    largest_parameter = max(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.state))
    limit = max(batch, largest_parameter + 1)
    worst = max(found, key=lambda each: each.largest, default=None)
    size = worst.largest if worst else 0
    sentence = None
    if size >= limit:
        sentence = (
            f"{worst.kind} of one array of {size / MIB:.0f} MiB ({worst.source}), as large as the global batch ("
            f"{batch / MIB:.0f} MiB): an activation has lost its sharding"
        )
    return _budget("largest array in a collective", limit, size, sentence)


def _reductions(program: Program, found: list[Collective]) -> dict[str, Any]:
    """Gradients are reduced once: all reductions together move about the parameters' size in float32.

    Where gathers are of rows only, for contrast, the gradients of these are added up too, in float32.
    """
    parameters = tree_bytes(program.state.params)
    gathered = 0
    if program.mesh.shape.get("fsdp", 1) == 1:
        gathered = sum(
            each.count * each.bytes * (2 if each.dtype == "bf16" else 1) for each in found if each.kind == "all-gather"
        )
    size = sum(
        each.count * each.bytes * (each.group if each.kind == "reduce-scatter" else 1)
        for each in found
        if each.kind in ("all-reduce", "reduce-scatter")
    )
    limit = SLACK * parameters + gathered
    sentence = None
    if size > limit:
        sentence = (
            f"reductions move {size / MIB:.0f} MiB a step for {parameters / MIB:.0f} MiB of parameters and "
            f"{gathered / MIB:.0f} MiB of gathered rows: gradients are reduced more than once"
        )
    return _budget("reductions of a step", limit, size, sentence)


def _budget(name: str, limit: float, found: float, sentence: str | None) -> dict[str, Any]:
    return {
        "name": name, "limit_mib": limit / MIB, "found_mib": found / MIB, "ok": sentence is None, "sentence": sentence,
    }  # fmt: skip


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, over all devices."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
