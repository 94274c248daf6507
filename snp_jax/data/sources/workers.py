"""Worker processes that write shards, and the watch over them: one that dies or blocks is replaced, never waited for.

A file on which a worker has ended or blocked twice is refused from then on (stored without bytes, counted as "crash"), so that
neither the preparation nor a training run meets it again. Workers end with their parent.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from snp_jax.data.sources.shards import ShardTask, write_shard
from snp_jax.errors import UserError

_ATTEMPTS = 2  # deaths on the same file after which it is refused
_FAILED_STARTS = 3
_POLL_S = 0.5


@dataclasses.dataclass
class _Worker:
    """A process, the task it has, and the place in it where it was last heard from."""

    process: multiprocessing.process.BaseProcess
    connection: Connection
    task: int | None = None
    position: int | None = None
    heard: float = dataclasses.field(default_factory=time.monotonic)


def write_shards(tasks: Sequence[ShardTask], *, jobs: int, silent_s: float, progress: Callable[[int], object]) -> None:
    """Writes all shards, `jobs` at a time, each in a process of its own.

    Args:
        tasks: the shards.
        jobs: number of processes.
        silent_s: a process that says nothing for so long is replaced; longer than a file may take by its limits.
        progress: called with the number of files done since the last call (negative: to be done again).

    Raises:
        UserError: a shard cannot be written, or processes end before they have started.
    """
    _Pool(tasks, min(jobs, len(tasks)), silent_s, progress).run()


class _Pool:
    def __init__(self, tasks: Sequence[ShardTask], jobs: int, silent_s: float, progress: Callable[[int], object]):
        self._tasks = tasks
        self._silent_s = silent_s
        self._progress = progress
        self._waiting = collections.deque(range(len(tasks)))
        self._deaths: collections.Counter[tuple[int, int | None]] = collections.Counter()
        self._refused: dict[int, dict[int, str]] = collections.defaultdict(dict)
        self._context = multiprocessing.get_context("spawn")  # never fork after FFmpeg or JAX have threads
        self._workers: list[_Worker] = []
        self._jobs = jobs

    def run(self) -> None:
        try:
            self._workers = [self._start() for _ in range(self._jobs)]
            while self._workers:
                self._step()
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()

    def _start(self) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_work, args=(there,), daemon=True)
        process.start()
        there.close()  # so that the end of the process is the end of the pipe
        worker = _Worker(process, here)
        self._give(worker)
        return worker

    def _give(self, worker: _Worker) -> None:
        """The next shard for a worker; None sends it home."""
        worker.task = self._waiting.popleft() if self._waiting else None
        worker.position = None
        message = None if worker.task is None else (self._tasks[worker.task], self._refused[worker.task])
        with contextlib.suppress(OSError):  # it has just died; `_step` finds out
            worker.connection.send(message)

    def _step(self) -> None:
        ready = wait([worker.connection for worker in self._workers], timeout=_POLL_S)
        for worker in list(self._workers):
            if worker.connection in ready:
                try:
                    self._hear(worker, worker.connection.recv())
                except (EOFError, OSError):
                    self._bury(worker)
            elif worker.task is not None and time.monotonic() - worker.heard > self._silent_s:
                self._bury(worker)

    def _hear(self, worker: _Worker, message: tuple[str, Any]) -> None:
        kind, value = message
        worker.heard = time.monotonic()
        if kind == "file":
            if value:
                self._progress(1)
            worker.position = value
        elif kind == "done":
            self._progress(1 if value else 0)  # the last file of the shard
            self._give(worker)
        else:
            raise UserError(value)

    def _bury(self, worker: _Worker) -> None:
        """A worker has ended, or says nothing: its shard is done again by another one."""
        blocked = worker.process.is_alive() and worker.task is not None and not worker.connection.poll()
        worker.process.kill()
        worker.process.join()
        self._workers.remove(worker)
        if worker.task is None:
            return  # went home
        self._note_death(worker, blocked)
        if worker.position:
            self._progress(-worker.position)
        self._waiting.appendleft(worker.task)
        self._workers.append(self._start())

    def _note_death(self, worker: _Worker, blocked: bool) -> None:
        place = (worker.task, worker.position)
        self._deaths[place] += 1
        how = f"said nothing for {self._silent_s:g} s" if blocked else f"ended with {_exit_words(worker.process.exitcode)}"
        if worker.position is None:
            if self._deaths[place] >= _FAILED_STARTS:
                raise UserError(
                    f"a worker process {how} before it read a file, {_FAILED_STARTS} times; "
                    "run the same command again to go on, with more memory or fewer --jobs"
                )
        elif self._deaths[place] >= _ATTEMPTS:
            self._refused[worker.task][worker.position] = f"crash: a process that decoded this file {how}"


def _exit_words(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _work(connection: Connection) -> None:
    """Main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while (message := connection.recv()) is not None:
        task, refused = message
        try:
            write_shard(task, refused, lambda position: connection.send(("file", position)))
        except UserError as error:
            connection.send(("error", str(error)))
            return
        connection.send(("done", len(task)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
