"""Which video stands at which position of a stream, and in which size: a function of the seed and the position alone.

Nothing here reads a video. An order is a Grain `MapDataset` without end (training) or with one (evaluation), so that any host,
worker or resumed run finds position p without those before it.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from snp_jax.data.decode import fit_inside
from snp_jax.data.mixture import Mixture

PADDING_ROW = -1
MIX_WINDOW = 256  # positions of a mixture in which the sources take turns at random
BUCKET_WINDOW = 64  # global batches that are put together from the same positions
Size = tuple[int, int]


class Place(NamedTuple):
    """One position: the row of the video, the box (H, W) its picture is fitted into, and the canvas (H, W) of its batch."""

    row: int
    box: Size
    canvas: Size


class _InWindows:
    """Positions dealt out anew inside windows of a fixed size. Pickles without the windows it remembers."""

    def __init__(self, size: int, length: int):
        self._size = size
        self._length = length // size * size
        self._windows: dict[int, Sequence[Any]] = {}
        self._lock = threading.Lock()

    def _window(self, number: int) -> Sequence[Any]:
        """What stands at the positions of a window."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> Any:
        number, offset = divmod(position, self._size)
        with self._lock:
            if number not in self._windows:
                kept = {k: window for k, window in self._windows.items() if abs(k - number) <= 1}
                self._windows = {**kept, number: self._window(number)}
            return self._windows[number][offset]

    def __getstate__(self):
        return {**self.__dict__, "_windows": {}, "_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())


class MixedOrder(_InWindows):
    """Endless orders that alternate by their shares, exactly in the long run; `order[p]` is a row.

    Inside `MIX_WINDOW` positions it is random whose turn it is (every host then meets all of them), but each order keeps its
    own sequence: a source is gone through completely before it starts again.
    """

    def __init__(self, parts: Sequence[grain.MapDataset], shares: Sequence[float], seed: int):
        super().__init__(MIX_WINDOW, sys.maxsize)
        self._parts = tuple(parts)
        self._seed = seed
        turns = [grain.MapDataset.range(sys.maxsize).map(functools.partial(_turn, part)) for part in range(len(parts))]
        self._turns = grain.MapDataset.mix(turns, weights=shares)

    def _window(self, number: int) -> list[int]:
        turns = np.array([self._turns[number * self._size + i] for i in range(self._size)])
        shuffled = np.random.default_rng((self._seed, number)).permutation(turns[:, 0])
        rows = np.empty(self._size, np.int64)
        for part, order in enumerate(self._parts):
            rows[shuffled == part] = [order[int(k)] for k in turns[turns[:, 0] == part, 1]]
        return rows.tolist()


def _turn(part: int, count: int) -> tuple[int, int]:
    return part, count


def training_rows(mixture: Mixture, seed: int) -> grain.MapDataset:
    """Endless rows of a mixture. Every source is shuffled anew each time it has been gone through, whatever its share."""
    if len(mixture.sources) == 1:
        return grain.MapDataset.range(len(mixture)).seed(seed).shuffle().repeat()
    seeds = np.random.SeedSequence(seed).generate_state(len(mixture.sources)).tolist()
    parts = [
        grain.MapDataset.range(first, last).shuffle(seed=part_seed).repeat()
        for first, last, part_seed in zip(mixture.starts, mixture.starts[1:], seeds, strict=False)
    ]
    return grain.MapDataset.source(MixedOrder(parts, mixture.shares, seed)).seed(seed)


def bucket_of(sizes: np.ndarray, buckets: Sequence[Size]) -> np.ndarray:
    """The bucket of each picture, uint8 `[V]`: where it can be largest; of those alike, the smallest.

    Args:
        sizes: (height, width) of the upright pictures, `[V, 2]`; (0, 0) = unknown, which goes into the first bucket.
        buckets: (H, W) each.
    """
    kinds, which = np.unique(sizes, axis=0, return_inverse=True)
    chosen = np.zeros(len(kinds), np.uint8)
    for i, (height, width) in enumerate(kinds.tolist()):
        if height and width:
            areas = [np.prod(fit_inside((height, width), box)) for box in buckets]
            chosen[i] = min(range(len(buckets)), key=lambda k: (-areas[k], buckets[k][0] * buckets[k][1], k))
    return chosen[which.reshape(-1)]


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Sizes that batches may have, and which video has which.

    Attributes:
        sizes: (H, W) each.
        of_row: uint8 `[V]`, an index into `sizes` for each row.
    """

    sizes: tuple[Size, ...]
    of_row: np.ndarray

    @property
    def canvas(self) -> Size:
        """What holds every bucket."""
        return max(h for h, _ in self.sizes), max(w for _, w in self.sizes)


class BucketedOrder(_InWindows):
    """An endless order rearranged so that the videos of a global batch share a size; `order[p]` is a `Place`.

    The positions of `BUCKET_WINDOW` batches are dealt out again to as many batches, in a random order: as many full batches of
    each bucket as there are, and the rest of all buckets together, on a canvas that holds every bucket. No position is lost
    or doubled, and what stands where does not depend on hosts or workers.
    """

    def __init__(self, rows: grain.MapDataset, buckets: Buckets, global_batch: int, seed: int):
        super().__init__(global_batch * BUCKET_WINDOW, len(rows))
        self._rows = rows
        self._buckets = buckets
        self._batch = global_batch
        self._seed = seed

    def _window(self, number: int) -> list[Place]:
        rows = np.array([self._rows[number * self._size + i] for i in range(self._size)])
        sizes, bucket = self._buckets.sizes, self._buckets.of_row[rows]
        batches, rest = [], []
        for k, box in enumerate(sizes):
            mine = rows[bucket == k]
            full = len(mine) // self._batch * self._batch
            batches += [(part, box) for part in mine[:full].reshape(-1, self._batch)]
            rest.append(mine[full:])
        batches += [(part, self._buckets.canvas) for part in np.concatenate(rest).reshape(-1, self._batch)]
        turns = np.random.default_rng((self._seed, number)).permutation(len(batches))
        return [
            Place(row, sizes[self._buckets.of_row[row]], canvas)
            for part, canvas in (batches[i] for i in turns)
            for row in part.tolist()
        ]


def evaluation_places(buckets: Buckets, global_batch: int, wanted: Sequence[int] | None = None) -> list[Place]:
    """Every (wanted) row once: bucket by bucket, in storage order inside them; each is filled up with `PADDING_ROW`."""
    places = []
    for k, box in enumerate(buckets.sizes):
        rows = np.flatnonzero(buckets.of_row == k)
        rows = (rows if wanted is None else rows[np.isin(rows, wanted)]).tolist()
        rows += [PADDING_ROW] * (-len(rows) % global_batch)
        places += [Place(row, box, box) for row in rows]
    return places
