"""How long the kernels of a compiled program run: the instruction bundles that the compiler scheduled for them.

XLA says nothing of a kernel's time. But libtpu can write down its final schedule, of which a core starts one bundle a cycle. It
does so for a whole process, so the kernels are compiled again, each alone, in a process of their own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, get_args

from snp_jax.aot.hlo import Computation, Instruction, Module, Shape

if TYPE_CHECKING:
    import jax

Array = tuple[tuple[int, ...], str]
"""Shape and dtype."""

_DUMP = "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|\d+)\s*(?:\w\w)?\s*: (>*) ?\{", re.MULTILINE)
_DTYPES = {"bf16": "bfloat16", "f32": "float32"}


@dataclasses.dataclass(frozen=True)
class WindowAttention:
    """`models/window_attention.py` and the sizes it is called with.

    Attributes:
        backward: whether it is the backward pass.
        count: windows, R.
        cells: of a window, N.
        channels: C.
        heads: H.
        period: rows of the labels, or None where there are none.
        dtype: of the windows, as JAX writes it.
    """

    backward: bool
    count: int
    cells: int
    channels: int
    heads: int
    period: int | None
    dtype: str

    CALLED: ClassVar[str] = "window_attention"
    NAME: ClassVar[re.Pattern] = re.compile(rf"{CALLED}(?P<backward>_backward)?")

    @classmethod
    def read(cls, name: re.Match, operands: Sequence[Shape]) -> WindowAttention:
        """From what a program says of a call."""
        backward = name["backward"] is not None
        (count, cells, channels), heads = operands[0].dims, operands[3].dims[0]
        period = operands[4].dims[0] if _has_pair(operands, backward) else None
        return cls(backward, count, cells, channels, heads, period, _DTYPES[operands[0].dtype])

    @property
    def loops(self) -> tuple[int, int]:
        """Steps of the grid, and how often the loop in a step runs."""
        from snp_jax.models.window_attention import grid_of

        grid = grid_of(self.count, self.cells, self.channels, self.period)
        return grid.parts * grid.steps, grid.windows

    def program(self) -> tuple[Callable[..., jax.Array], tuple[Array, ...], int]:
        """A function that runs the kernel's forward pass, its arguments, and how many of them have gradients."""
        import numpy as np

        from snp_jax.models.window_attention import attend_by_kernel

        period = self.period or 1
        window = ((self.count // period, period, self.cells, self.channels), self.dtype)
        labels = None if self.period is None else np.zeros((self.period, self.cells), np.int32)
        arrays = (window, window, window, ((self.heads, self.cells, self.cells), "float32"))
        return lambda *arrays: attend_by_kernel(*arrays, labels), arrays, 4


@dataclasses.dataclass(frozen=True)
class SequenceAttention:
    """`models/sequence_attention.py` and the sizes it is called with.

    Attributes:
        backward: whether it is the backward pass.
        count: sequences, N.
        length: tokens of one, L.
        channels: C.
        heads: H.
        dropped: whether weights are dropped.
        dtype: of the tokens, as JAX writes it.
    """

    backward: bool
    count: int
    length: int
    channels: int
    heads: int
    dropped: bool
    dtype: str

    CALLED: ClassVar[str] = "sequence_attention"
    NAME: ClassVar[re.Pattern] = re.compile(rf"{CALLED}(?P<backward>_backward)?_of_(?P<length>\d+)_in_(?P<heads>\d+)")

    @classmethod
    def read(cls, name: re.Match, operands: Sequence[Shape]) -> SequenceAttention:
        """From what a program says of a call."""
        backward, length = name["backward"] is not None, int(name["length"])
        rows, channels = operands[0].dims
        dropped = _has_pair(operands, backward)
        return cls(backward, rows // length, length, channels, int(name["heads"]), dropped, _DTYPES[operands[0].dtype])

    @property
    def loops(self) -> tuple[int, int]:
        """Steps of the grid, and how often the loop in a step runs."""
        from snp_jax.models.sequence_attention import grid_of

        grid = grid_of(self.count, self.length, self.channels, self.dtype)
        return grid.parts * grid.steps, grid.windows

    def program(self) -> tuple[Callable[..., jax.Array], tuple[Array, ...], int]:
        """A function that runs the kernel's forward pass, its arguments, and how many of them have gradients."""
        from snp_jax.models.sequence_attention import attend_by_kernel

        tokens, seed = ((self.count * self.length, self.channels), self.dtype), ((self.count,), "uint32")
        arrays = (tokens, tokens, tokens, ((self.count, self.length), "float32"), *[seed] * 2 * self.dropped)
        rate = 0.1 if self.dropped else 0.0

        def forward(query, key, value, bias, *seeds):
            return attend_by_kernel(query, key, value, bias, heads=self.heads, rate=rate, seeds=seeds)

        return forward, arrays, 3


@dataclasses.dataclass(frozen=True)
class LayerNorm:
    """`models/layer_norm.py` and the sizes it is called with.

    Attributes:
        backward: whether it is the backward pass.
        branch: whether that adds a residual's gradient.
        rows: R.
        channels: C.
        dtype: of the rows, as JAX writes it.
    """

    backward: bool
    branch: bool
    rows: int
    channels: int
    dtype: str

    CALLED: ClassVar[str] = "layer_norm"
    NAME: ClassVar[re.Pattern] = re.compile(rf"{CALLED}(?P<backward>_backward)?")

    @classmethod
    def read(cls, name: re.Match, operands: Sequence[Shape]) -> LayerNorm:
        """From what a program says of a call."""
        backward = name["backward"] is not None
        return cls(backward, backward and len(operands) == 4, *operands[0].dims, _DTYPES[operands[0].dtype])

    @property
    def loops(self) -> tuple[int, int]:
        """Steps of the grid, and how often the loop in a step runs: there is none."""
        from snp_jax.models.layer_norm import rows_of_step

        return self.rows // rows_of_step(self.rows, self.channels), 0

    def program(self) -> tuple[Callable[..., jax.Array], tuple[Array, ...], int]:
        """A function that runs the kernel's forward pass, its arguments, and how many of them have gradients."""
        from snp_jax.models.layer_norm import branch_by_kernel, normalise_by_kernel

        by_kernel = branch_by_kernel if self.branch else normalise_by_kernel
        rows, parameter = ((self.rows, self.channels), self.dtype), ((self.channels,), "float32")
        return lambda *arrays: by_kernel(*arrays, 1e-5, self.dtype), (rows, parameter, parameter), 3


def _has_pair(operands: Sequence[Shape], backward: bool) -> bool:
    """Whether two arrays (labels, or seeds) come beside query, key, value, bias and, in the backward pass, a gradient."""
    return len(operands) == (5 if backward else 4) + 2


Kernel = WindowAttention | SequenceAttention | LayerNorm
KINDS = {kind.__name__: kind for kind in get_args(Kernel)}


def kernel_of(computation: Computation, instruction: Instruction) -> Kernel | None:
    """The kernel that a custom call runs, or None for other instructions."""
    if instruction.opcode != "custom-call" or 'custom_call_target="tpu_custom_call"' not in instruction.text:
        return None
    operands = [shapes[0] for shapes in computation.operand_shapes(instruction)]
    for kind in KINDS.values():
        for part in instruction.source.split("/"):
            if name := kind.NAME.fullmatch(part):
                return kind.read(name, operands)
    raise ValueError(f"{instruction.name} is a kernel that snp_jax/aot/kernels.py does not know: {instruction.source}")


def kernels_in(module: Module) -> set[Kernel]:
    """All that a program runs."""
    found = {kernel_of(computation, instruction) for computation, instruction, _ in module.executed()}
    return found - {None}


def count_cycles(kernels: Iterable[Kernel], topology: str) -> dict[Kernel, int]:
    """Cycles of one run of each kernel on a chip of a topology; 2 to 5 seconds a kernel."""
    kernels = sorted(kernels, key=str)
    if not kernels:
        return {}
    with tempfile.TemporaryDirectory(prefix="snp_jax_kernels_") as folder:
        environment = os.environ | {"LIBTPU_INIT_ARGS": _DUMP.format(folder=folder)}
        asked = json.dumps([(type(kernel).__name__, dataclasses.asdict(kernel)) for kernel in kernels])
        command = [sys.executable, "-m", "snp_jax.aot.kernels", topology, folder]
        done = subprocess.run(command, input=asked, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"the kernels could not be compiled alone:\n{done.stderr[-2000:]}")
    return dict(zip(kernels, json.loads(done.stdout.splitlines()[-1]), strict=True))


def cycles_of(bundles: str, steps: int, rounds: int) -> int:
    """Cycles of a schedule: the grid's loop runs `steps` times, the loop in it `rounds` times each, the rest once.

    Raises:
        ValueError: there are no bundles, or loops in these.
    """
    depths = Counter(len(depth) for depth in _BUNDLE.findall(bundles))
    if not depths or max(depths) > 2:
        raise ValueError(f"a kernel's schedule has bundles at depths {sorted(depths)} instead of 0, 1 and 2")
    return depths[0] + steps * (depths[1] + rounds * depths[2])


def _compile(kernel: Kernel, device: object) -> None:
    """Compiles a kernel alone for a device."""
    import jax
    from jax.sharding import SingleDeviceSharding

    forward, arrays, differentiated = kernel.program()
    where = SingleDeviceSharding(device)
    arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=where) for shape, dtype in arrays]

    def backward(gradient: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        rest = arrays[differentiated:]
        found, pull = jax.vjp(lambda *arrays: forward(*arrays, *rest), *arrays[:differentiated])
        return pull(jax.tree.map(lambda _: gradient, found))  # all have its shape

    if kernel.backward:
        jax.jit(backward).trace(arrays[0], *arrays).lower().compile()
    else:
        jax.jit(forward).trace(*arrays).lower().compile()


def main() -> None:
    """The process of `count_cycles`."""
    from snp_jax.aot.chips import find_topology, prepare_environment, topology_devices

    topology, folder = sys.argv[1], Path(sys.argv[2])
    prepare_environment(quick=False)
    device, found = topology_devices(find_topology(topology))[0], []
    for kind, sizes in json.load(sys.stdin):
        kernel = KINDS[kind](**sizes)
        _compile(kernel, device)
        name = kernel.CALLED + "_backward" * kernel.backward
        (file,) = folder.glob(f"*{name}*-[0-9][0-9]-final_bundles.txt")
        found.append(cycles_of(file.read_text(), *kernel.loops))
        for written in folder.iterdir():
            written.unlink()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
