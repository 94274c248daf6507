"""Where a run's numbers go: `metrics.jsonl`, TensorBoard, and a progress bar. No computation."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

FILE = "metrics.jsonl"


class MetricWriter:
    """Writes scalars of a run. On resume, lines past the restored step are dropped first, so no step is written twice."""

    def __init__(self, workdir: Path, resumed_step: int, *, enabled: bool):
        """Not `enabled`, it writes nothing (the run's other processes)."""
        self._enabled = enabled
        if not enabled:
            return
        self._path = workdir / FILE
        if self._path.exists():
            kept = [line for line in read_metrics(self._path) if line["step"] <= resumed_step]
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            temporary.replace(self._path)
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed_step + 1, flush_secs=30)

    def write(self, step: int, values: Mapping[str, float], notes: Mapping[str, object] | None = None) -> None:
        """Writes one line: scalars, and notes that only the JSON lines keep."""
        if not self._enabled:
            return
        line = {"step": step, **{name: float(value) for name, value in values.items()}, **(notes or {})}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Flushes and closes both."""
        if not self._enabled:
            return
        self._file.close()
        self._board.close()


def read_metrics(path: Path) -> list[dict]:
    """Lines of a `metrics.jsonl`; a last line cut off by a kill is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class Progress:
    """The bar a person watches: step, losses, examples per second, time left."""

    def __init__(self, name: str, first_step: int, last_step: int, batch_size: int, *, shown: bool):
        self._bar = tqdm(
            total=last_step, initial=first_step, desc=name, unit="step", dynamic_ncols=True, mininterval=1.0, disable=not shown
        )
        self._batch_size = batch_size
        self._mark = (time.monotonic(), first_step)

    def advance(self) -> None:
        """One step is done."""
        self._bar.update(1)

    def rate(self, step: int) -> float:
        """Examples per second since the last call."""
        now = time.monotonic()
        (then, earlier), self._mark = self._mark, (now, step)
        return (step - earlier) * self._batch_size / max(now - then, 1e-9)

    def show(self, values: Mapping[str, float], examples_per_second: float) -> None:
        """Puts the newest numbers beside the bar."""
        shown = {name: f"{value:.3g}" for name, value in values.items()}
        self._bar.set_postfix({**shown, "ex/s": f"{examples_per_second:.0f}"}, refresh=False)

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        if not self._bar.disable:
            self._bar.write(message)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()
