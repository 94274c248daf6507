"""Compiles a program for described devices and reads what the compiler says of its memory."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import jax

from snp_jax.aot.chips import GIB, QUICK

OUT_OF_MEMORY = "Ran out of memory"
QUICK_MARGIN = 0.06
"""How much less memory a quick compilation may show than a full one does."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program.

    Attributes:
        text: its HLO.
        hbm_gib: `arguments`, `temp`, `output` (without what takes an argument's place) and `total`, the peak, on one device.
        seconds: that compiling took.
    """

    text: str
    hbm_gib: dict[str, float]
    seconds: float


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """A program that the compiler found no room for; `needed_gib` of temporaries, or None where it did not say."""

    message: str
    needed_gib: float | None
    seconds: float


def compile_program(traced: Any) -> Compiled | TooLarge:
    """Lowers and compiles a traced step for the devices of its shardings."""
    start = time.monotonic()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        return TooLarge(*_shortage(str(error)), time.monotonic() - start)
    return Compiled(compiled.as_text(), _memory(compiled.memory_analysis()), time.monotonic() - start)


def is_quick() -> bool:
    """Whether the compiler leaves out most optimisations."""
    return jax.config.jax_optimization_level == QUICK


def _memory(stats: Any) -> dict[str, float]:
    """By kind. The kinds add up to more than the total where temporaries take the place of arguments."""
    total = stats.peak_memory_in_bytes
    output = stats.output_size_in_bytes - stats.alias_size_in_bytes
    parts = {"arguments": stats.argument_size_in_bytes, "temp": stats.temp_size_in_bytes, "output": output, "total": total}
    return {kind: size / GIB for kind, size in parts.items()}


def _shortage(message: str) -> tuple[str, float | None]:
    """The compiler's sentence, and how much it would need."""
    found = re.search(r"\(([\d.]+)([GM])\) exceeds available HBM|Used ([\d.]+)([GM]) of", message)
    sentence = message[message.index(OUT_OF_MEMORY) :].split("\n", 1)[0]
    if not found:
        return sentence, None
    number, unit = (found.group(1), found.group(2)) if found.group(1) else (found.group(3), found.group(4))
    return sentence, float(number) / (1 if unit == "G" else 1024)
