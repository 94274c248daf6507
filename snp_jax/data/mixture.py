"""Several prepared datasets as one: image-text and video-text, each with its share of the examples.

Which example comes when is decided in `order`; this module only puts the datasets side by side.
"""

from __future__ import annotations

import bisect
import collections
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from snp_jax.data.sources.prepared import Record, VideoSource, open_source
from snp_jax.errors import UserError


class Mixture:
    """One or several sources with random access over all of them: row 0 is the first of the first source. Pickles.

    Attributes:
        sources: the splits.
        shares: of the examples, one a source; they sum to 1.
        names: of the sources, all different. With several sources, ids of videos are "name:id".
    """

    def __init__(self, sources: Sequence[VideoSource], weights: Sequence[float] = ()):
        """`weights` are proportional to the shares; none: by the number of videos.

        Raises:
            UserError: not one positive weight a source, or a source without videos.
        """
        self.sources = tuple(sources)
        if weights and (len(weights) != len(self.sources) or min(weights) <= 0):
            raise UserError(
                f"config.dataset.weights={tuple(weights)} needs one number above 0 for each of the {len(self.sources)} "
                "datasets of config.dataset.path"
            )
        if not all(len(source) for source in self.sources):
            empty = next(source for source in self.sources if not len(source))
            raise UserError(f"{empty.directory}: the {empty.split} split has no videos; prepare the dataset again")
        weights = weights or [len(source) for source in self.sources]
        self.shares = tuple(weight / sum(weights) for weight in weights)
        self.names = _different_names([source.directory for source in self.sources])
        self.starts = (0, *itertools.accumulate(len(source) for source in self.sources))

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, row: int) -> Record:
        part = bisect.bisect_right(self.starts, row) - 1
        record = self.sources[part][row - self.starts[part]]
        if len(self.sources) == 1:
            return record
        return Record(record.annotation.renamed(f"{self.names[part]}:{record.annotation.video_id}"), record.video)

    def __repr__(self) -> str:
        return f"Mixture({list(self.sources)!r}, shares={self.shares!r})"

    @property
    def sizes(self) -> Mapping[str, int]:
        """Videos by the name that their ids begin with; "" where there is one source."""
        if len(self.sources) == 1:
            return {"": len(self)}
        return dict(zip(self.names, map(len, self.sources), strict=True))


def open_mixture(paths: Sequence[str | Path], split: str, weights: Sequence[float] = ()) -> Mixture:
    """Opens a split of one or several prepared datasets.

    Raises:
        UserError: see `open_source` and `Mixture`.
    """
    return Mixture([open_source(path, split) for path in paths], weights)


def _different_names(directories: Sequence[str]) -> tuple[str, ...]:
    """The last parts of the paths, numbered where they are equal."""
    names = [Path(directory).name.replace(":", "_") for directory in directories]
    seen: collections.Counter[str] = collections.Counter()
    different = []
    for name in names:
        seen[name] += 1
        different.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(different)
