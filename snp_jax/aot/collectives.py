"""The collectives of a compiled program: which, how large, over how many devices, how often."""

from __future__ import annotations

import collections
import dataclasses
import re

from snp_jax.aot.chips import Chip
from snp_jax.aot.hlo import Computation, Instruction, Module, Shape

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind, size and group.

    Attributes:
        kind: one of `KINDS`.
        dtype: of the (first) result.
        bytes: of one result on one device.
        largest: bytes of the largest single array, operand or result.
        group: devices that take part together.
        count: executions.
        seconds: of one execution at the links' full bandwidth.
        source: operation of the model it came from.
    """

    kind: str
    dtype: str
    bytes: int
    largest: int
    group: int
    count: int
    seconds: float
    source: str


def inner_collective(module: Module, instruction: Instruction) -> Instruction | None:
    """The collective that an instruction is, or that stands inside it if it is a fusion."""
    if _kind(instruction) in KINDS:
        return instruction
    if instruction.opcode != "fusion":
        return None
    inside = (inner for name in instruction.called for inner in module.computations[name].instructions.values())
    return next((inner for inner in inside if _kind(inner) in KINDS), None)


def find_collectives(module: Module, chip: Chip, devices: int) -> list[Collective]:
    """Collectives with how often they run, equal ones together, largest traffic first."""
    counts: dict[Collective, int] = collections.Counter()
    for computation, instruction, count in module.executed():
        inner = inner_collective(module, instruction)
        if inner is not None and _starts(inner):
            counts[_describe(computation, instruction, inner, chip, devices)] += count
    found = [dataclasses.replace(each, count=count) for each, count in counts.items()]
    return sorted(found, key=lambda each: (-each.bytes * each.count, each.kind, each.source))


def _kind(instruction: Instruction) -> str:
    return instruction.opcode.removesuffix("-start")


def _starts(inner: Instruction) -> bool:
    """A collective that runs beside other work is cut into fusions that all contain it; this is the first, or the only one."""
    flag = re.search(r'"flag_start":"?(-?\d+)', inner.text)
    return flag is None or flag.group(1) == "-1"


def _describe(computation: Computation, instruction: Instruction, inner: Instruction, chip: Chip, devices: int) -> Collective:
    kind, results = _kind(inner), _results(inner)
    if instruction is not inner and "all-reduce-scatter" in instruction.name:  # an all-reduce of which each keeps its part
        kind, results = "reduce-scatter", instruction.shapes
    group = group_size(inner.text, devices)
    size = sum(shape.bytes for shape in results)
    operands = size * group if kind == "reduce-scatter" else size // group if kind == "all-gather" else size
    largest = max((shape.bytes for shape in results), default=0) * (group if kind == "reduce-scatter" else 1)
    return Collective(
        kind, results[0].dtype if results else "?", size, largest, group, 0,
        _seconds(kind, size, operands, group, chip), inner.source,
    )  # fmt: skip


def _results(inner: Instruction) -> tuple[Shape, ...]:
    """The arrays a collective makes; some start forms list operands and flags beside them."""
    if inner.opcode in ("all-gather-start", "collective-permute-start"):
        arrays = [shape for shape in inner.shapes if shape.dims]
        return tuple(arrays[len(arrays) // 2 :])
    return inner.shapes


def group_size(text: str, devices: int) -> int:
    """How many devices a collective joins, from any spelling of `replica_groups`; a permutation has pairs."""
    if "source_target_pairs=" in text:
        return 2
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):  # [groups, size]<=[devices]
        return int(found.group(1))
    if found := re.search(r"replica_groups=\{\{?([\d,]+)\}", text):
        return found.group(1).count(",") + 1
    return devices  # {} is all of them


def _seconds(kind: str, result: int, operand: int, group: int, chip: Chip) -> float:
    """Of a ring over all links: what each device must send, over its links' bandwidth."""
    share = (group - 1) / group
    sent = {
        "all-reduce": 2 * result * share,
        "all-gather": result * share,
        "reduce-scatter": operand * share,
        "all-to-all": result * share,
    }
    return sent.get(kind, result) / chip.ici_bandwidth
