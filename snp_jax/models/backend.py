"""Which backend the network is being traced for: the one place that decides between forms of the same
function.

XLA for TPU and GPU has good kernels for what the models need. XLA's CPU code for depthwise convolutions, and
for the gradients of strided ones and of LayerNorm, is several times slower than the same sums written as
shifted multiply-adds and matrix products (`docs/performance.md`). The forms are tested to be equal, and share
their parameters.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("forced_backend", default=None)
_on_one_device: contextvars.ContextVar[bool] = contextvars.ContextVar("on_one_device", default=False)


@contextlib.contextmanager
def lower_for(platform: str) -> Iterator[None]:
    """Traces as if the default backend were `platform` ("tpu", "gpu" or "cpu").

    For ahead-of-time compilation on a machine without the accelerator: wrap the call to `.trace()` or
    `.lower()`. The choice is made while tracing and jit caches traces: give each platform its own `jax.jit`
    object.
    """
    token = _forced.set(platform)
    try:
        yield
    finally:
        _forced.reset(token)


def for_cpu() -> bool:
    """Whether the code being traced will run on the CPU."""
    return _platform() == "cpu"


def for_tpu() -> bool:
    """Whether the code being traced will run on a TPU."""
    return _platform() == "tpu"


@contextlib.contextmanager
def one_device() -> Iterator[None]:
    """Says that the arrays of the code being traced are whole on one device: of one device, or inside `jax.shard_map`.

    XLA cannot split kernels over devices, so they are used only there.
    """
    token = _on_one_device.set(True)
    try:
        yield
    finally:
        _on_one_device.reset(token)


def kernels_for_tpu() -> bool:
    """Whether Pallas kernels for TPUs may be used."""
    return _on_one_device.get() and for_tpu()


def _platform() -> str:
    return _forced.get() or jax.default_backend()
