"""Commands run as child processes that get the signals their parent gets, and end together."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

_GRACE_S = 30.0  # for the others to end after one has failed
_POLL_S = 0.1


def run_together(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], logs: Sequence[Path | None] | None = None
) -> int:
    """Runs commands side by side until all have ended.

    SIGINT and SIGTERM are passed on to all, so that each can save. When one fails, the others get a while to notice, then
    they are killed.

    Args:
        logs: for each command the file its output is appended to; None = that of this process (default for all).

    Returns:
        0 when all ended with 0, else the exit code of the first that did not (128 + n after signal n).
    """
    children: list[subprocess.Popen] = []
    files = ExitStack()

    def pass_on(number: int, frame: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:  # in sessions of their own, or Ctrl-C would reach them twice
        for command, log in zip(commands, logs or [None] * len(commands), strict=True):
            out = None if log is None else files.enter_context(log.open("ab"))
            children.append(
                subprocess.Popen(list(command), env=dict(environment), start_new_session=True, stdout=out, stderr=out)
            )
        failed: int | None = None
        deadline = float("inf")
        while any(child.poll() is None for child in children):
            if failed is None:
                failed = next((code for child in children if (code := child.poll())), None)
                deadline = time.monotonic() + _GRACE_S if failed is not None else deadline
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        failed = failed or next((code for child in children if (code := child.poll())), 0)
    finally:
        files.close()
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return failed if failed >= 0 else 128 - failed
