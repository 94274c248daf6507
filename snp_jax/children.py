"""Commands run as child processes that get the signals their parent gets, and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

_GRACE_S = 30.0  # for the others to end after one has failed
_POLL_S = 0.1
_NICENESS = 10


class Children:
    """A context that processes are started in; whatever still runs when it is left gets killed.

    Inside it, SIGINT and SIGTERM are passed on to all, so that each can save.

    Attributes:
        signalled: whether such a signal came: nothing more should be started.
    """

    def __init__(self, environment: Mapping[str, str]):
        self.signalled = False
        self._environment = dict(environment)
        self._running: list[subprocess.Popen] = []
        self._deadline = float("inf")

    def __enter__(self) -> Children:
        self._previous = {number: signal.signal(number, self._pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._running:
            child.kill()
            child.wait()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def start(self, command: Sequence[str], log: Path | None = None, *, behind: bool = False) -> subprocess.Popen:
        """Starts a command.

        Args:
            log: file its output is appended to; None = the output of this process.
            behind: whether it only gets the processor time that the others leave.
        """
        with nullcontext() if log is None else log.open("ab") as out:
            # In a group of its own, or Ctrl-C would reach it twice; in this session, or Linux would not heed its priority.
            child = subprocess.Popen(list(command), env=self._environment, process_group=0, stdout=out, stderr=out)
        if behind:
            os.setpriority(os.PRIO_PROCESS, child.pid, _NICENESS)
        self._running.append(child)
        return child

    def wait(self) -> tuple[subprocess.Popen, int]:
        """Waits until one ends: that one and its exit code, 128 + n after signal n.

        After `hurry` those that do not end in time are killed.
        """
        while True:
            for child in self._running:
                if (code := child.poll()) is not None:
                    self._running.remove(child)
                    return child, code if code >= 0 else 128 - code
            if time.monotonic() > self._deadline:
                for child in self._running:
                    child.kill()
            time.sleep(_POLL_S)

    def hurry(self) -> None:
        """Gives those that run a while to end."""
        self._deadline = min(self._deadline, time.monotonic() + _GRACE_S)

    def ask_to_stop(self) -> None:
        """SIGTERM to all, so that each can save, and a while to do it."""
        self._send(signal.SIGTERM)
        self.hurry()

    def __len__(self) -> int:
        return len(self._running)

    def _pass_on(self, number: int, frame: object) -> None:
        self.signalled = True
        self._send(number)

    def _send(self, number: int) -> None:
        for child in self._running:
            child.send_signal(number)


def run_together(commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> int:
    """Runs commands side by side until all have ended. When one fails, the others get a while to notice, then they are killed.

    Returns:
        0 when all ended with 0, else the exit code of the first that did not.
    """
    failed = 0
    with Children(environment) as children:
        for command in commands:
            children.start(command)
        while len(children):
            _, code = children.wait()
            if code and not failed:
                failed = code
                children.hurry()
    return failed
