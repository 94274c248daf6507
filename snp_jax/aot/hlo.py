"""Reads the text of a compiled program: its computations, and how often each instruction runs in one execution.

Only structure lives here; what instructions cost is in `costs`. The text is that of `compiled.as_text()` for TPUs, where trip
counts are not written down and must be read from the loops' conditions.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from functools import cached_property

BYTES = {"pred": 1, "token": 0, "bf16": 2}
FAST_MEMORY = 1
"""Memory space of buffers that live on the chip (VMEM); 0 is HBM, others are scalar and semaphore memory."""

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: element type, sizes, memory space."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        width = BYTES.get(self.dtype)
        if width is None:
            bits = re.search(r"\d+", self.dtype)
            width = int(bits.group()) / 8 if bits else 0
        return int(self.size * width)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
        shapes: of the result; several where it is a tuple.
        operands: names of instructions of the same computation.
        text: what follows the operands.
        literal: what stands between the parentheses, for constants and parameters.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    literal: str
    text: str
    root: bool

    @property
    def bytes(self) -> int:
        """Of the result, all parts together."""
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, key: str) -> str | None:
        """The value of `key=value`, up to the next comma or brace."""
        found = re.search(rf"\b{key}=(\{{[^}}]*\}}|[^,\s]+)", self.text)
        return found.group(1) if found else None

    @cached_property
    def called(self) -> tuple[str, ...]:
        """Computations it runs, except a loop's condition."""
        names = [match.group(1) for match in _CALLS.finditer(self.text)]
        if branches := _BRANCHES.search(self.text):
            names += [name.strip().lstrip("%") for name in branches.group(1).split(",")]
        return tuple(names)

    @property
    def source(self) -> str:
        """The operation of the model that it came from, or ""."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found.group(1) if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in schedule order."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The one whose value the computation has."""
        return next(each for each in self.instructions.values() if each.root)

    def operand_shapes(self, instruction: Instruction) -> list[tuple[Shape, ...]]:
        """Shapes of what an instruction reads."""
        return [self.instructions[name].shapes for name in instruction.operands if name in self.instructions]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: computations by name, and the one that starts."""

    computations: dict[str, Computation]
    entry: str

    def executed(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Every instruction that runs, with how often. Fusions are one instruction; of a condition the larger branch runs."""
        counts = self._runs()
        for name, count in counts.items():
            for instruction in self.computations[name].instructions.values():
                yield self.computations[name], instruction, count

    def unknown_loops(self) -> list[str]:
        """Loops whose trip count could not be read; they count once."""
        return [
            instruction.name
            for _, instruction, _ in self.executed()
            if instruction.opcode == "while" and self.trip_count(instruction) is None
        ]

    def trip_count(self, loop: Instruction) -> int | None:
        """How often a `while` runs its body: as written, else the bound that its condition compares the counter with.

        Loops of `lax.scan`, `lax.map` and `fori_loop` count from zero by ones.
        """
        written = re.search(r'known_trip_count\\?":\{\\?"n\\?":\\?"(\d+)', loop.text)
        if written:
            return int(written.group(1))
        bounds = set(self._bounds(self.computations[loop.attribute("condition").lstrip("%")]))
        return bounds.pop() if len(bounds) == 1 else None

    def _bounds(self, computation: Computation) -> Iterator[int]:
        """Integer constants of a condition and of what it calls."""
        for instruction in computation.instructions.values():
            if instruction.opcode == "constant" and instruction.shapes[0].dtype in ("s32", "u32", "s64"):
                yield int(instruction.literal)
            for name in instruction.called:
                yield from self._bounds(self.computations[name])

    def _size(self, computation: str) -> int:
        """Bytes of all results in a computation."""
        return sum(instruction.bytes for instruction in self.computations[computation].instructions.values())

    def _runs(self) -> dict[str, int]:
        """Executions of each computation that is not part of a fusion or a reduction."""
        runs: dict[str, int] = collections.defaultdict(int)

        def visit(name: str, times: int) -> None:
            runs[name] += times
            for instruction in self.computations[name].instructions.values():
                if instruction.opcode == "while":
                    visit(instruction.attribute("body").lstrip("%"), times * (self.trip_count(instruction) or 1))
                elif instruction.opcode == "conditional":
                    visit(max(instruction.called, key=self._size), times)
                elif instruction.opcode in ("call", "async-start"):
                    for called in instruction.called:
                        visit(called, times)

        visit(self.entry, 1)
        return dict(runs)


def parse(text: str) -> Module:
    """Reads `compiled.as_text()`.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations, entry = {}, None
    current: dict[str, Instruction] | None = None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = {}
            computations[head.group(2)] = Computation(head.group(2), current)
            entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (start := _LINE.match(line)):
            instruction = _instruction(line[start.end() :], start.group(2), bool(start.group(1)))
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("the program's text has no ENTRY computation")
    return Module(computations, entry)


def shapes_of(text: str) -> tuple[Shape, ...]:
    """The arrays that a shape such as `(f32[8]{0:T(128)S(1)}, s32[])` lists."""
    found = []
    for dtype, dims, layout in _SHAPE.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        found.append(Shape(dtype, sizes, int(space.group(1)) if space else 0))
    return tuple(found)


def _instruction(text: str, name: str, root: bool) -> Instruction:
    """`text` is what follows the equals sign: shape, opcode, operands, attributes."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    operands = tuple(_OPERAND.findall(inside))
    return Instruction(name, rest[:opening], shapes_of(shape), operands, inside, rest[closing + 1 :], root)


def _closing(text: str, opening: int) -> int:
    """Where the parenthesis that opens at `opening` closes."""
    depth = 0
    for match in re.finditer(r"[()]", text[opening:]):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return opening + match.start()
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")
