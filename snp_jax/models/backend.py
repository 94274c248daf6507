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
    return (_forced.get() or jax.default_backend()) == "cpu"
