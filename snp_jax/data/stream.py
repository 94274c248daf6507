"""Runs a chain of examples: reads ahead, puts batches together, knows its place, replaces workers that die.

Grain's own iterators do the work; this one owns them. It adds what they lack: a saved position that is valid
for any number of workers and hosts, new workers in place of one that died or blocked (the stream goes on as if
nothing had happened), an error instead of a hang when that does not help, and workers that never outlive the
run. What an example is, `pipeline` decides; which video is to blame, `watch`.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import json
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from snp_jax.data.watch import BLOCKED_EXIT, WatchKeeper
from snp_jax.errors import UserError

_READY_BATCHES = 2  # batches put together ahead of the step that uses them
_CLOSING_S = 5.0  # patience with a thread or a worker that has been told to stop
_WORKER_NAME = "grain-process-prefetch"  # how Grain calls its processes
_TOGETHER = 8  # examples at most that a worker hands over at once: each time costs about a millisecond
_SHARED_MEMORY_FROM = 16 * 1024  # bytes; smaller arrays are pickled, a shared block each would cost more
_KEEP_MEMORY = {-1: 256 << 20, -3: 32 << 20}  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (at most 32 MiB), in bytes
_POSITION = "next_position"
_DIED = "Worker process was terminated unexpectedly with exit code "  # how Grain's message begins
_POLL_S = 0.5
_GONE_S = 60.0  # patience after a worker has gone without an error, which at the end of a stream is normal
_MAX_DEATHS = 3  # in a row, with no batch and no video to blame in between


@dataclasses.dataclass(frozen=True)
class Reading:
    """How examples are read; changes the speed, never the stream.

    Attributes:
        num_workers: worker processes; 0 = threads of this process (enough for large frames, whose decoding
            releases the GIL; small ones gain from workers).
        num_threads: reading threads, per process.
        buffer: examples decoded ahead, per process; costs buffer x the bytes of one clip.
        stall_s: seconds without a batch after which the workers are taken to be stuck.
    """

    num_workers: int = 0
    num_threads: int = 2
    buffer: int = 32
    stall_s: float = 600.0


@dataclasses.dataclass(frozen=True)
class Share:
    """What one process reads of every global batch: the rows `rows`, in this order, of `total`."""

    rows: tuple[int, ...]
    total: int


class _Parts(grain.MapDataset):
    """What a share has of the batches from `position` on, one after another, each in parts of `size` elements."""

    def __init__(self, parent: grain.MapDataset, share: Share, position: int, size: int):
        super().__init__(parent)
        self._share = share
        self._position = position
        self._size = size

    def __len__(self) -> int:
        batches = max(len(self._parent) - self._position, 0) // self._share.total
        return batches * (len(self._share.rows) // self._size)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, part = divmod(index, len(self._share.rows) // self._size)
        start = self._position + batch * self._share.total
        rows = self._share.rows[part * self._size : (part + 1) * self._size]
        return _stack([self._parent[start + row] for row in rows])


class BatchStream(grain.DatasetIterator):
    """A process's share of the batches of a Grain `MapDataset`: batch k is its elements k * total to (k + 1) * total - 1.

    Starts reading at the first `next` or at `start`, so that a position restored right after construction costs nothing.
    """

    def __init__(
        self,
        examples: grain.MapDataset,
        share: Share,
        reading: Reading,
        *,
        identity: Mapping[str, int],
        keeper: WatchKeeper | None = None,
    ):
        """`identity` says what the stream was made from; a state with another identity is refused. `keeper` knows which
        videos are in work, if the examples tell its watch; it is closed with the stream.
        """
        super().__init__()
        self._examples = examples
        self._share = share
        self._reading = reading
        self._identity = dict(identity)
        self._position = 0  # of the whole stream: where the next global batch begins
        self._ahead: _ReadAhead | None = None
        self._finished = False
        self._keeper = keeper
        self._deaths = 0

    def start(self) -> None:
        """Starts the workers now: they take seconds to come up, in which the caller has other things to do."""
        if not self._closed and not self._finished and self._ahead is None:
            self._ahead = _ReadAhead(self._batches(), self._reading)

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch.

        Raises:
            StopIteration: a finite stream has ended.
            RuntimeError: an example cannot be made (an error in the code); the position is kept.
            UserError: a record is damaged, or workers died or blocked again and again; the position is kept.
        """
        if self._closed:
            raise ValueError("the stream of batches is closed")
        if self._finished:
            raise StopIteration
        while True:
            self.start()
            try:
                batch = self._ahead.get()
            except _WorkerDeath as death:
                self._stop()
                self._replace(death)  # and go on from the position, which no example has left yet
            except BaseException as end:
                self._finished = isinstance(end, StopIteration)
                self._stop()
                raise
            else:
                self._deaths = 0
                self._position += self._share.total
                return batch

    def get_state(self) -> dict[str, int]:
        """Place in the stream: JSON, the same on every host."""
        return {_POSITION: self._position, **self._identity}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes to a saved place.

        Raises:
            UserError: the place belongs to another stream (other seed or other data).
        """
        for name, mine in self._identity.items():
            if state.get(name) != mine:
                raise UserError(
                    f"the checkpoint's place in the data was saved with {name} = {state.get(name)}, "
                    f"now it is {mine}; "
                    "go on with the same data and seed, or start in a new --workdir"
                )
        self._stop()
        self._finished = False
        self._position = state[_POSITION]

    async def load(self, directory: Path) -> Awaitable[None]:
        """Goes to the place that a checkpoint holds (Orbax calls this). Every process saved the same place, so that of any
        will do, also where there are more or fewer processes now.
        """
        saved = await asyncio.to_thread(lambda: min(directory.glob("process_*.json")).read_text())

        async def go() -> None:
            self.set_state(json.loads(saved))

        return go()

    def close(self) -> None:
        """Ends all threads and workers. The stream cannot be used afterwards."""
        self._stop()
        self._closed = True
        if self._keeper is not None:
            self._keeper.close()

    def _replace(self, death: _WorkerDeath) -> None:
        """Decides whether new workers are worth a try, and says so."""
        blamed = []
        if self._keeper is not None:
            blamed = self._keeper.accuse(death.pids, f"{death.how} while it decoded this video", death.blocked_before)
        self._deaths = 0 if blamed else self._deaths + 1
        if self._deaths >= _MAX_DEATHS or not self._reading.num_workers:
            raise UserError(
                f"reading the data failed: {death.how} ({self._deaths} in a row); run the same command again to go on "
                "from the last checkpoint, with fewer config.reading.num_workers if memory was short"
            )
        masked = f"; {', '.join(blamed)} will be masked" if blamed else ""
        print(f"reading the data: {death.how}; starting new workers{masked}", file=sys.stderr)

    def _stop(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _batches(self) -> grain.DatasetIterator:
        """Grain's iterator from the present position on."""
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads absl flags when it starts workers
        reading, rows = self._reading, len(self._share.rows)
        size = max(n for n in range(1, _TOGETHER + 1) if rows % n == 0)
        buffer = max(reading.buffer // size, 1)
        parts = _Parts(self._examples, self._share, self._position, size).to_iter_dataset(
            grain.ReadOptions(num_threads=reading.num_threads, prefetch_buffer_size=buffer)
        )
        if reading.num_workers:
            processes = grain.MultiprocessingOptions(reading.num_workers, per_worker_buffer_size=buffer)
            options = grain.experimental.DatasetOptions(min_shm_size=_SHARED_MEMORY_FROM)
            parts = grain.experimental.WithOptionsIterDataset(parts, options)
            parts = parts.mp_prefetch(processes, worker_init_fn=_start_worker)
        return iter(parts.batch(rows // size, drop_remainder=True, batch_fn=_join))


class _WorkerDeath(Exception):
    """Worker processes have ended or are stuck. `how` says it in words; see `WatchKeeper.accuse` for the rest."""

    def __init__(self, how: str, pids: list[int], blocked_before: float | None = None):
        super().__init__(how)
        self.how = how
        self.pids = pids
        self.blocked_before = blocked_before


class _ReadAhead:
    """Draws batches in a thread: they are ready in time, and a stalled worker cannot block the caller."""

    def __init__(self, batches: grain.DatasetIterator, reading: Reading):
        self._batches = batches
        self._reading = reading
        self._ready: queue.Queue[dict[str, np.ndarray] | BaseException] = queue.Queue(_READY_BATCHES)
        self._stopping = threading.Event()
        self._stalled = False
        self._others = {process.pid for process in multiprocessing.active_children()}
        self._workers: dict[int, multiprocessing.process.BaseProcess] = {}
        self._gone_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def get(self) -> dict[str, np.ndarray]:
        """The next batch; see `BatchStream.__next__` for errors, but for `_WorkerDeath`."""
        started = time.monotonic()
        while True:
            self._see_workers()
            try:
                item = self._ready.get(timeout=_POLL_S)
                break
            except queue.Empty:
                self._check_silence(time.monotonic() - started)
        if isinstance(item, StopIteration):
            raise item
        if isinstance(item, BaseException):
            if str(item).startswith(_DIED):
                code = int(str(item).removeprefix(_DIED).partition(".")[0])
                raise _WorkerDeath(_exit_words(code), self._gone()) from None
            if isinstance(item, UserError):
                raise item
            raise RuntimeError(
                f"reading the data failed ({self._reading.num_workers} worker processes): {type(item).__name__}: {item}"
            ) from item
        return item

    def _see_workers(self) -> None:
        for process in multiprocessing.active_children():
            if process.name.startswith(_WORKER_NAME) and process.pid not in self._others:
                self._workers[process.pid] = process

    def _gone(self) -> list[int]:
        return [pid for pid, process in self._workers.items() if process.exitcode is not None]

    def _check_silence(self, seconds: float) -> None:
        """Nothing has come for so long: is that all right?"""
        gone = self._gone()
        if gone and self._gone_since is None:
            self._gone_since = time.monotonic()
        if gone and time.monotonic() - self._gone_since > _GONE_S:
            self._stalled = True
            words = _exit_words(self._workers[gone[0]].exitcode)
            raise _WorkerDeath(f"{words} and no batch came for {_GONE_S:g} s after that", gone)
        if seconds > self._reading.stall_s:
            self._stalled = True
            how = f"no batch came for {self._reading.stall_s:g} s"
            raise _WorkerDeath(how, list(self._workers), blocked_before=time.time() - self._reading.stall_s / 2)

    def close(self) -> None:
        """Lets the thread finish its batch before the workers end; kills workers that are stuck."""
        self._stopping.set()
        self._thread.join(timeout=0 if self._stalled else _CLOSING_S)
        if self._thread.is_alive():
            self._kill_workers()
        # In a thread of its own: Grain waits without limit for a worker that ended with status 0.
        closing = threading.Thread(target=self._batches.close, name="closing", daemon=True)
        closing.start()
        closing.join(timeout=_CLOSING_S)
        if closing.is_alive():  # at exit Grain would close once more beside this thread, and print a traceback
            self._kill_workers()
            closing.join(timeout=_CLOSING_S)

    def _kill_workers(self) -> None:
        self._see_workers()
        for process in self._workers.values():
            process.kill()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                item: dict[str, np.ndarray] | BaseException = next(self._batches)
            except BaseException as error:  # handed to the caller, whatever it is
                item = error
            self._put(item)
            if isinstance(item, BaseException):
                return

    def _put(self, item: dict[str, np.ndarray] | BaseException) -> None:
        while not self._stopping.is_set():
            try:
                return self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue


def _exit_words(code: int | None) -> str:
    if code == BLOCKED_EXIT:
        return "a worker process was blocked by a decoder"
    return f"a worker process ended with {f'signal {-code}' if code is not None and code < 0 else f'exit code {code}'}"


def _stack(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}


def _join(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _start_worker(index: int, count: int) -> None:
    """Runs first in a worker: leaves Ctrl-C to the main process, touches no device, keeps its memory, ends with its parent."""
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu")  # too late for the environment variable: Grain has imported JAX
    _keep_freed_memory()
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()


def _keep_freed_memory() -> None:
    """Has glibc keep what is freed: clips are large blocks of the same sizes again and again, and getting their pages from the
    kernel each time costs a tenth of decoding (docs/performance.md). Other C libraries have no such switch."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option, size in _KEEP_MEMORY.items():
            set_option(option, size)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
