"""Updates that were skipped because the loss or a gradient was not finite: counted, named, and too many in a row end the run.

The jitted step decides and skips (`step.make_train_step`); here the host takes note.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from snp_jax.errors import UserError
from snp_jax.train import processes

FILE = "skipped.jsonl"
_BEHIND = 2  # a step's flag is read so many steps later: it has long been computed, and nothing waits for it
_NAMED = 32


class BadSteps:
    """Record of a run's skipped updates.

    Attributes:
        count: how many there were since this process started.
    """

    def __init__(self, workdir: Path, limit: int, say: Callable[[str], None]):
        """`limit` in a row are too many; `say` tells the user of each."""
        self._workdir = workdir
        self._limit = limit
        self._say = say
        self._waiting: collections.deque[tuple[int, jax.Array, list[str]]] = collections.deque()
        self._in_a_row = 0
        self.count = 0

    def update(self, step: int, skipped: jax.Array, video_ids: Sequence[str]) -> None:
        """Takes note of a step.

        Args:
            step: its number, from 1.
            skipped: scalar, 1 where the update was skipped; the same on all processes. Not waited for.
            video_ids: what this process fed.

        Raises:
            UserError: an earlier step was one too many in a row.
        """
        self._waiting.append((step, skipped, list(video_ids)))
        while len(self._waiting) > _BEHIND:
            self._examine()

    def catch_up(self) -> None:
        """Examines all steps so far, waiting for them; raises as `update` does."""
        while self._waiting:
            self._examine()

    def _examine(self) -> None:
        step, skipped, names = self._waiting.popleft()
        if not jax.device_get(skipped):
            self._in_a_row = 0
            return
        self.count += 1
        self._in_a_row += 1
        everyone = [str(name) for part in processes.gather(names) for name in part]
        if processes.is_first():
            with (self._workdir / FILE).open("a") as file:
                file.write(json.dumps({"step": step, "videos": everyone}) + "\n")
        shown = ", ".join(everyone[:_NAMED]) + (f" and {len(everyone) - _NAMED} more" if len(everyone) > _NAMED else "")
        if self._in_a_row >= self._limit:
            raise UserError(
                f"loss or gradient was not finite in {self._in_a_row} steps in a row, the last of them step {step} on {shown} "
                f"(all batches: {self._workdir / FILE}); these updates were skipped and earlier checkpoints are kept: "
                "look at these videos, or start again with a lower config.optim.learning_rate or config.optim.clip_norm"
            )
        self._say(f"step {step}: loss or gradient not finite, update skipped ({self.count} so far); its batch: {shown}")
