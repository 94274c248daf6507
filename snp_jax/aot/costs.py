"""What the instructions of a compiled program cost on one device: arithmetic, HBM traffic, and a time estimate.

Every figure counts an instruction as often as it runs (`hlo.Module.executed`). HBM traffic is what fusions read and write;
operands kept on the chip are free, a slice of a large array costs the slice.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from snp_jax.aot.chips import Chip
from snp_jax.aot.collectives import KINDS, inner_collective
from snp_jax.aot.flops import valid_taps
from snp_jax.aot.hlo import FAST_MEMORY, Computation, Instruction, Module, Shape
from snp_jax.aot.kernels import Kernel, kernel_of

FREE = {
    "add-dependency", "after-all", "all-gather-done", "all-reduce-done", "async-done", "async-start", "async-update",
    "bitcast", "call", "collective-permute-done", "conditional", "constant", "copy-done", "domain",
    "get-tuple-element", "iota", "opt-barrier", "optimization-barrier", "parameter", "partition-id", "recv",
    "recv-done", "replica-id", "send", "send-done", "slice-done", "tuple", "while",
}  # fmt: skip
"""Instructions that move nothing themselves."""
SLICES = {"dynamic-slice", "slice", "gather"}
COPIES = {"copy", "transpose"}
BESIDE = {"copy-start", "slice-start"}
"""Transfers between HBM and the memory on the chip that go on beside what runs."""
PASSES = {"highest": 6, "high": 3}
"""Passes through the matrix units of a product at a precision above the default."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One instruction with its executed cost on one device.

    Attributes:
        count: executions.
        flops: of products and convolutions, of one execution.
        bytes: HBM traffic of one execution.
        cycles: the compiler's own estimate of one execution, of a kernel the length of its schedule; None where there is none.
        seconds: the larger of arithmetic at peak (in passes of the matrix units) and traffic at full bandwidth, once; of a
            kernel the larger of schedule and traffic.
        compute_bound: whether that is the arithmetic.
        beside: it is a transfer beside other operations.
    """

    name: str
    opcode: str
    source: str
    count: int
    flops: float
    bytes: float
    cycles: int | None
    seconds: float
    compute_bound: bool
    beside: bool


def operations(module: Module, chip: Chip, kernels: Mapping[Kernel, int]) -> list[Operation]:
    """Everything that runs on a device's cores, collectives left out; `kernels` has the cycles of each kernel."""
    found = []
    for computation, instruction, count in module.executed():
        if instruction.opcode in FREE or _names_memory(instruction):
            continue
        flops, work = _products(module, computation, instruction)
        if not flops and inner_collective(module, instruction) is not None:
            continue  # one that computes on the side counts for that
        traffic = _traffic(module, computation, instruction)
        compute, memory = work / chip.flops, traffic / chip.hbm_bandwidth
        kernel = kernel_of(computation, instruction)
        if kernel is None:
            estimate = re.search(r'"estimated_cycles":"(\d+)"', instruction.text)
            cycles = int(estimate.group(1)) if estimate else None
        else:
            cycles = kernels[kernel]
            compute = cycles / chip.clock
        found.append(
            Operation(
                instruction.name, instruction.opcode, instruction.source, count, flops, traffic,
                cycles, max(compute, memory), compute >= memory, instruction.opcode in BESIDE,
            )
        )  # fmt: skip
    return found


def _names_memory(instruction: Instruction) -> bool:
    """Custom calls that give memory a name and move nothing."""
    target = re.search(r'custom_call_target="(\w+)"', instruction.text)
    return target is not None and target.group(1) in ("AllocateBuffer", "ConcatBitcast")


# ---------------------------------------------------------------------- arithmetic
def _products(module: Module, computation: Computation, instruction: Instruction) -> tuple[float, float]:
    """Operations of the products and convolutions in an instruction, as written and in passes of the matrix units."""
    if instruction.opcode == "fusion":
        parts = [
            _products(module, module.computations[name], inner)
            for name in instruction.called
            for inner in module.computations[name].instructions.values()
        ]
        return sum(part[0] for part in parts), sum(part[1] for part in parts)
    if instruction.opcode not in ("convolution", "dot"):
        return 0.0, 0.0
    left, right = (shapes[0] for shapes in computation.operand_shapes(instruction)[:2])
    count = _convolution if instruction.opcode == "convolution" else _dot
    flops = count(instruction, left, right)
    precision = re.search(r"operand_precision=\{(\w+)", instruction.text)
    return flops, flops * PASSES.get(precision.group(1) if precision else "", 1)


def _dot(instruction: Instruction, left: Shape, right: Shape) -> float:
    axes = (instruction.attribute("lhs_contracting_dims") or "{}").strip("{}")
    contracted = math.prod(left.dims[int(axis)] for axis in axes.split(",") if axis)
    return 2.0 * instruction.shapes[0].size * contracted


def _convolution(instruction: Instruction, left: Shape, right: Shape) -> float:
    """XLA for TPUs writes every matrix product as a convolution."""
    labels = re.match(r"(\w+)_(\w+)->(\w+)", instruction.attribute("dim_labels"))
    inputs, kernel, output = labels.groups()
    window = _window(instruction.text)
    result, taps = instruction.shapes[0], 1
    for i in range(len(output) - 2):
        axis = str(i)
        values = {key: value[i] for key, value in window.items()}
        taps *= valid_taps(
            size=left.dims[inputs.index(axis)], window=right.dims[kernel.index(axis)], result=result.dims[output.index(axis)],
            stride=int(values.get("stride", 1)), low=int(values.get("pad", "0_0").split("_")[0]),
            dilation=int(values.get("lhs_dilate", 1)), window_dilation=int(values.get("rhs_dilate", 1)),
        )  # fmt: skip
    channels = right.dims[kernel.index("i")]
    return 2.0 * result.dims[output.index("b")] * result.dims[output.index("f")] * channels * taps


def _window(text: str) -> dict[str, list[str]]:
    """`window={size=3x3 pad=1_1x1_1}` -> {"size": ["3", "3"], "pad": ["1_1", "1_1"]}."""
    found = re.search(r"window=\{([^}]*)\}", text)
    pairs = (item.split("=") for item in found.group(1).split()) if found else ()
    return {key: value.split("x") for key, value in pairs}


# ---------------------------------------------------------------------- traffic
def _traffic(module: Module, computation: Computation, instruction: Instruction) -> float:
    """HBM bytes that one execution reads and writes."""
    opcode, shapes = instruction.opcode, computation.operand_shapes(instruction)
    if opcode == "fusion":
        inner = module.computations[instruction.called[0]]
        return _read_by_fusion(module, inner, shapes) + _written(module, inner, inner.root, instruction.shapes)
    if opcode in BESIDE:
        moved = instruction.shapes[0].bytes  # target, source, flag
        return moved * sum(shape.space != FAST_MEMORY for shape in instruction.shapes[:2])
    if opcode in SLICES:
        return 2.0 * _hbm(instruction.shapes)
    if opcode == "dynamic-update-slice":
        return 2.0 * _hbm(shapes[1])
    return _hbm(instruction.shapes) + sum(_hbm(each) for each in shapes)


def _hbm(shapes: tuple[Shape, ...]) -> float:
    return float(sum(shape.bytes for shape in shapes if shape.space == 0))


def _read_by_fusion(module: Module, inner: Computation, operands: list[tuple[Shape, ...]]) -> float:
    total = 0.0
    for parameter in inner.instructions.values():
        if parameter.opcode == "parameter":
            shape = operands[int(parameter.literal)]
            if _hbm(shape):
                total += min(_hbm(shape), _read(module, inner, parameter.name))
    return total


def _read(module: Module, computation: Computation, name: str) -> float:
    """Bytes of a value that its users look at; infinite when one looks at all of it."""
    total = 0.0
    for user in computation.instructions.values():
        if name not in user.operands:
            continue
        if user.opcode in SLICES and user.operands[0] == name:
            total += user.bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            continue  # in place
        elif user.opcode.removesuffix("-start") in KINDS or user.opcode == "custom-call":
            continue  # a collective on the side
        elif user.opcode == "bitcast":
            total += _read(module, computation, user.name)
        elif user.opcode == "fusion":
            inner = module.computations[user.called[0]]
            for position, operand in enumerate(user.operands):
                if operand == name:
                    total += _read(module, inner, _parameter(inner, position))
        else:
            return math.inf
    return total


def _parameter(computation: Computation, position: int) -> str:
    return next(
        each.name for each in computation.instructions.values() if each.opcode == "parameter" and each.literal == str(position)
    )


def _written(module: Module, computation: Computation, root: Instruction, shapes: tuple[Shape, ...]) -> float:
    """Bytes a fusion writes; an update in place costs the update."""
    if root.opcode == "tuple":
        parts = [computation.instructions[name] for name in root.operands]
        return sum(_written(module, computation, part, (shape,)) for part, shape in zip(parts, shapes, strict=False))
    if root.opcode == "bitcast" and root.operands:
        return _written(module, computation, computation.instructions[root.operands[0]], shapes)
    if root.opcode == "dynamic-update-slice" and _hbm(shapes):
        return float(computation.instructions[root.operands[1]].bytes)
    if root.opcode == "fusion":
        inner = module.computations[root.called[0]]
        return _written(module, inner, inner.root, shapes)
    return _hbm(shapes)
