"""Memory that a process has freed stays with it. Imports no JAX.

On the CPU, XLA allocates the temporaries of every step and frees them after it: 4 GiB for the full-size SNP-PVT with eight
pairs. By default glibc gives such memory back to the kernel, which maps and clears a million pages for the next step: a tenth
of its time and more (`docs/performance.md`). The price is that a process stays as large as it has ever been.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os

ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""For a process that does not call `keep_freed_memory`: what glibc reads when it starts."""
_OPTIONS = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}
"""Numbers and values of mallopt's parameters (malloc.h). One arena: only that one can hold gigabytes."""


def keep_freed_memory() -> bool:
    """Keeps it from now on if JAX will compute on the CPU; call it before JAX starts its threads, whose arenas stay otherwise.

    Returns:
        Whether it is kept: not with accelerators, nor without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not _on_cpu():
        return False
    return all([mallopt(number, value) for number, value in _OPTIONS.values()])


def _on_cpu() -> bool:
    """Whether JAX will take the CPU: it is told to, or has no plugin for anything else."""
    if asked := os.environ.get("JAX_PLATFORMS"):
        return asked.split(",")[0] == "cpu"
    installed = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
    return not installed and not importlib.metadata.entry_points(group="jax_plugins")
