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
from collections.abc import Iterable
from pathlib import Path

from snp_jax.aot.hlo import Computation, Instruction, Module

KERNELS = {"window_attention": 4, "window_attention_backward": 5}
"""Names of the kernels, and how many operands each has without labels of cells, which are two more."""
_DUMP = "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|\d+)\s*(?:\w\w)?\s*: (>*) ?\{", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel and the sizes it is called with.

    Attributes:
        name: one of `KERNELS`.
        count: windows, R.
        cells: of a window, N.
        channels: C.
        heads: H.
        period: rows of the labels, or None where there are none.
        dtype: of the windows, as JAX writes it.
    """

    name: str
    count: int
    cells: int
    channels: int
    heads: int
    period: int | None
    dtype: str


def kernel_of(computation: Computation, instruction: Instruction) -> Kernel | None:
    """The kernel that a custom call runs, or None for other instructions."""
    if instruction.opcode != "custom-call" or 'custom_call_target="tpu_custom_call"' not in instruction.text:
        return None
    name = next((part for part in instruction.source.split("/") if part in KERNELS), None)
    if name is None:
        raise ValueError(f"{instruction.name} is a kernel that snp_jax/aot/kernels.py does not know: {instruction.source}")
    operands = [shapes[0] for shapes in computation.operand_shapes(instruction)]
    (count, cells, channels), heads = operands[0].dims, operands[3].dims[0]
    period = operands[4].dims[0] if len(operands) == KERNELS[name] + 2 else None
    dtype = {"bf16": "bfloat16", "f32": "float32"}[operands[0].dtype]
    return Kernel(name, count, cells, channels, heads, period, dtype)


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
        asked = json.dumps([dataclasses.asdict(kernel) for kernel in kernels])
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
    import numpy as np
    from jax.sharding import SingleDeviceSharding

    from snp_jax.models.window_attention import attend_by_kernel

    period = kernel.period or 1
    where = SingleDeviceSharding(device)
    shape = (kernel.count // period, period, kernel.cells, kernel.channels)
    window = jax.ShapeDtypeStruct(shape, kernel.dtype, sharding=where)
    bias = jax.ShapeDtypeStruct((kernel.heads, kernel.cells, kernel.cells), "float32", sharding=where)
    labels = None if kernel.period is None else np.zeros((kernel.period, kernel.cells), np.int32)

    def forward(*arrays: jax.Array) -> jax.Array:
        return attend_by_kernel(*arrays, labels)

    def backward(gradient: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        return jax.vjp(forward, *arrays)[1](gradient)

    arrays = (window, window, window, bias)
    if kernel.name == "window_attention":
        jax.jit(forward).trace(*arrays).lower().compile()
    else:
        jax.jit(backward).trace(window, *arrays).lower().compile()


def main() -> None:
    """The process of `count_cycles`."""
    from snp_jax.aot.chips import find_topology, prepare_environment, topology_devices
    from snp_jax.models.window_attention import grid_of

    topology, folder = sys.argv[1], Path(sys.argv[2])
    prepare_environment(quick=False)
    device, found = topology_devices(find_topology(topology))[0], []
    for asked in json.load(sys.stdin):
        kernel = Kernel(**asked)
        _compile(kernel, device)
        (file,) = folder.glob(f"*{kernel.name}*-[0-9][0-9]-final_bundles.txt")
        grid = grid_of(kernel.count, kernel.cells, kernel.channels, kernel.period)
        found.append(cycles_of(file.read_text(), grid.parts * grid.steps, grid.windows))
        for written in folder.iterdir():
            written.unlink()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
