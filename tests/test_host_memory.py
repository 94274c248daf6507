"""Freed memory stays with a process, where JAX computes on the CPU."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from snp_jax import host_memory

PROGRAM = """
import resource, sys
import numpy as np
from snp_jax.host_memory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "call" else None
faults = []
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**26, np.float32)  # 256 MiB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, *faults)
"""

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")


def run(how: str, **environment: str) -> tuple[str, int, int]:
    """What `keep_freed_memory` said, and the page faults of the first and of the second array."""
    plain = {name: value for name, value in os.environ.items() if name not in host_memory.ENVIRONMENT}
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, env={**plain, **environment}, capture_output=True, text=True, check=True)
    kept, first, second = done.stdout.split()
    return kept, int(first), int(second)


@glibc
@pytest.mark.parametrize(("how", "environment"), [("call", {"JAX_PLATFORMS": "cpu"}), ("start", host_memory.ENVIRONMENT)])
def test_the_second_array_takes_the_pages_of_the_first(how, environment):
    kept, first, second = run(how, **environment)
    assert kept == ("True" if how == "call" else "None")
    assert second < first / 10


def test_not_with_an_accelerator():
    kept, first, second = run("call", JAX_PLATFORMS="tpu,cpu")
    assert kept == "False"
    assert second > first / 2 > 0


@pytest.mark.parametrize(("asked", "on_cpu"), [("cpu", True), ("cuda", False), ("tpu,cpu", False)])
def test_the_platform_that_jax_is_told(asked, on_cpu, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    assert host_memory._on_cpu() == on_cpu


@pytest.mark.parametrize("plugin", ["jax_plugins", "libtpu"])
def test_the_platform_that_is_installed(plugin, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: object() if name == plugin else None)
    assert not host_memory._on_cpu()
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(host_memory.importlib.metadata, "entry_points", lambda group: ())
    assert host_memory._on_cpu()
