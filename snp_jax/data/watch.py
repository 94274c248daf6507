"""Which video a worker process was decoding when it ended or blocked, so that the next one leaves that video alone.

A crash inside the decoder ends its process, a decoder that never returns blocks a thread for good: neither can be
caught in Python. Each worker therefore notes in a memory-mapped file, which survives it, what it decodes at the
moment. `stream` reads these notes when a worker has died and starts new ones; a video that was named twice is refused
from then on (`VideoError`, kind "crash"). In the main process (no workers) nothing can be done about a decoder that
blocks but to end the run, which is `stream`'s business too.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import mmap
import multiprocessing
import os
import shutil
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from snp_jax.data.container import VideoError

BLOCKED_EXIT = 70  # exit code of a worker that gave up on a decoder
_ATTEMPTS = 2
_SLOTS, _SLOT = 128, 512  # videos decoded at the same time in one process; bytes of a note
_HEAD = struct.Struct("<BdH")  # state, time of the start, length of the id
_FREE, _RUNNING, _BLOCKED = 0, 1, 2
_REFUSED = "refused.json"
_LOOK_EVERY_S = 1.0


@dataclasses.dataclass(frozen=True)
class Note:
    """A video that was being decoded when its process ended; since when (`time.time()`), and whether it was the one
    that blocked."""

    video_id: str
    since: float
    blocked: bool


@dataclasses.dataclass(frozen=True)
class Watch:
    """The workers' side: goes with the examples to every worker."""

    directory: str

    @contextlib.contextmanager
    def decoding(self, video_id: str, patience_s: float) -> Iterator[None]:
        """Around the decoding of a video.

        Args:
            video_id: which.
            patience_s: a worker process whose decoder has not returned by then ends itself.

        Raises:
            VideoError: the video has ended or blocked workers before.
        """
        notes = _notes_of_this_process(self.directory)
        if video_id in notes.refused:
            raise VideoError("crash", notes.refused[video_id])
        slot = notes.enter(video_id, patience_s)
        try:
            yield
        finally:
            notes.leave(slot)


class WatchKeeper:
    """The main process's side: owns the directory of the notes, counts how often a video was named."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="snp_jax_watch_"))
        self._remove = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)  # also at exit
        self._named: collections.Counter[str] = collections.Counter()
        self._refused: dict[str, str] = {}

    @property
    def watch(self) -> Watch:
        return Watch(str(self._directory))

    def accuse(self, pids: Iterable[int], reason: str, blocked_before: float | None = None) -> list[str]:
        """Takes the notes of processes that have ended, or of which some may be stuck.

        Args:
            pids: the processes.
            reason: for the videos that are refused now.
            blocked_before: only what was begun before this time (`time.time()`) counts.

        Returns:
            The ids of the videos that are refused from now on, and were not before.
        """
        refused = []
        notes = [note for pid in pids for note in _read_notes(self._directory / str(pid))]
        blockers = [note for note in notes if note.blocked]
        for note in blockers or notes:  # the others were only in the same process
            if blocked_before is not None and note.since > blocked_before:
                continue
            self._named[note.video_id] += _ATTEMPTS if note.blocked else 1
            if self._named[note.video_id] >= _ATTEMPTS and note.video_id not in self._refused:
                self._refused[note.video_id] = reason
                refused.append(note.video_id)
        if refused:
            part = self._directory / f"{_REFUSED}.part"
            part.write_text(json.dumps(self._refused), encoding="utf-8")
            part.replace(self._directory / _REFUSED)
        return refused

    def close(self) -> None:
        """Removes the notes."""
        self._remove()


class _Notes:
    """What this process decodes at the moment, in its file."""

    def __init__(self, directory: str):
        refused = Path(directory) / _REFUSED
        self.refused: dict[str, str] = json.loads(refused.read_text(encoding="utf-8")) if refused.exists() else {}
        self._lock = threading.Lock()
        self._free = list(range(_SLOTS))
        self._ends: dict[int, float] = {}  # slot -> when patience ends (monotonic)
        self._memory = None
        if multiprocessing.parent_process() is not None:
            with open(Path(directory) / str(os.getpid()), "w+b") as file:
                file.truncate(_SLOTS * _SLOT)
                self._memory = mmap.mmap(file.fileno(), _SLOTS * _SLOT)
            threading.Thread(target=self._look, name="decoder-watch", daemon=True).start()

    def enter(self, video_id: str, patience_s: float) -> int | None:
        if self._memory is None:
            return None
        name = video_id.encode()[: _SLOT - _HEAD.size]
        with self._lock:
            slot = self._free.pop()
            at = slot * _SLOT
            self._memory[at : at + _HEAD.size + len(name)] = _HEAD.pack(_RUNNING, time.time(), len(name)) + name
            self._ends[slot] = time.monotonic() + patience_s
        return slot

    def leave(self, slot: int | None) -> None:
        if slot is None:
            return
        with self._lock:
            self._memory[slot * _SLOT] = _FREE
            del self._ends[slot]
            self._free.append(slot)

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY_S)
            with self._lock:
                late = [slot for slot, end in self._ends.items() if time.monotonic() > end]
                for slot in late:
                    self._memory[slot * _SLOT] = _BLOCKED
            if late:
                os._exit(BLOCKED_EXIT)


_OWN: dict[str, _Notes] = {}
_OWN_LOCK = threading.Lock()


def _notes_of_this_process(directory: str) -> _Notes:
    notes = _OWN.get(directory)
    if notes is None:
        with _OWN_LOCK:
            notes = _OWN.get(directory) or _OWN.setdefault(directory, _Notes(directory))
    return notes


def _read_notes(path: Path) -> list[Note]:
    """The notes that a process left behind."""
    try:
        content = path.read_bytes()
    except OSError:
        return []  # it ended before it decoded anything
    notes = []
    for at in range(0, len(content), _SLOT):
        state, since, length = _HEAD.unpack_from(content, at)
        if state != _FREE:
            name = content[at + _HEAD.size : at + _HEAD.size + length].decode(errors="replace")
            notes.append(Note(name, since, state == _BLOCKED))
    return notes
