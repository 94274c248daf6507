"""When a run is asked to stop: signals are remembered until the loop can save, and all processes save the same step."""

from __future__ import annotations

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Remembers SIGINT or SIGTERM until the loop reaches a point where it can save. A second Ctrl-C stops at once.

    With several processes, JAX's preemption service listens to SIGTERM: whichever process receives it, all agree on a step
    that none has passed yet. SIGINT counts as SIGTERM there.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._several = jax.process_count() > 1
        numbers = (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._receive) for number in numbers}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def requested(self, step: int) -> bool:
        """Whether to save and stop now, before update number `step` (from 0). Asked once before every update."""
        if self._several:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received is not None

    @property
    def name(self) -> str:
        """What was received: "SIGINT", or "SIGTERM" (also where another process received it)."""
        return signal.Signals(self._received or signal.SIGTERM).name

    def restore(self) -> None:
        """Puts the previous handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
