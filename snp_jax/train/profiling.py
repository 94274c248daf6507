"""Records what the program does in a few steps, for TensorBoard's profile plugin and for Perfetto."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax

from snp_jax.errors import UserError

DIRECTORY = "profile"


@dataclasses.dataclass(frozen=True)
class ProfileSteps:
    """From when `first` updates are done until `end` are done."""

    first: int
    end: int

    @classmethod
    def parse(cls, text: str) -> ProfileSteps:
        """From "10:15".

        Raises:
            UserError: it is not like that.
        """
        first, colon, end = text.partition(":")
        if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
            raise UserError(f"--profile-steps {text}: write FIRST:END with FIRST < END, for example 10:15")
        return cls(int(first), int(end))


class Profiler:
    """Traces the steps that were asked for, in this process.

    Files: `profile/plugins/profile/<time>/`, `*.xplane.pb` for TensorBoard, `perfetto_trace.json.gz` for ui.perfetto.dev.
    """

    def __init__(self, workdir: Path, steps: ProfileSteps | None):
        self._directory = workdir / DIRECTORY
        self._steps = steps
        self._tracing = False

    def before(self, step: int, state: object) -> None:
        """Starts or ends the trace before update number `step` (from 0). Both wait until `state` is computed."""
        if self._steps is None:
            return
        if not self._tracing and self._steps.first <= step < self._steps.end:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
            self._tracing = True
        elif self._tracing and step >= self._steps.end:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends the trace if there is one."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
