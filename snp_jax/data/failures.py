"""Counts and names the videos that could not be decoded, and ends the run when they are too many.

The pipeline marks such videos (`failure`, `valid`); nothing here changes a batch.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping

import numpy as np

from snp_jax.errors import UserError

_NAMED = 5
_ENOUGH = 100  # distinct videos after which the share of broken ones means something


def count_reasons(failures: Mapping[str, str]) -> dict[str, int]:
    """Videos per reason (`container.KINDS`), in alphabetical order, of video id -> "kind: detail"."""
    kinds = collections.Counter(failure.partition(":")[0] for failure in failures.values())
    return dict(sorted(kinds.items()))


class BrokenVideos:
    """Running record of broken videos of one dataset, on one host.

    A video counts once however often it comes around. The number of distinct videos seen is taken to be the
    number of examples seen, up to the size of the dataset: the pipeline visits every video before it visits
    one again.
    """

    def __init__(self, dataset: str, dataset_size: int | Mapping[str, int], *, max_share: float = 0.05):
        """`dataset` names it in messages; `dataset_size` counts this host's videos, of a mixture by the name that the ids
        begin with (`Mixture.sizes`).
        """
        self._dataset = dataset
        self._sizes = {"": dataset_size} if isinstance(dataset_size, int) else dict(dataset_size)
        self._max_share = max_share
        self._examples = dict.fromkeys(self._sizes, 0)
        self._failures: dict[str, str] = {}

    def update(self, batch: Mapping[str, np.ndarray]) -> None:
        """Takes note of a batch (`video_id`, `failure`; rows without an id are padding).

        Raises:
            UserError: more than `max_share` of the distinct videos seen are broken, after 100 videos or one
            round.
        """
        for video_id, failure in zip(batch["video_id"].tolist(), batch["failure"].tolist(), strict=True):
            if video_id:
                self._examples["" if "" in self._sizes else video_id.partition(":")[0]] += 1
                if failure:
                    self._failures[video_id] = failure
        seen = sum(min(examples, self._sizes[name]) for name, examples in self._examples.items())
        if seen >= min(sum(self._sizes.values()), _ENOUGH) and len(self._failures) > self._max_share * seen:
            raise UserError(
                f"{self._dataset}: {len(self._failures)} of the first {seen} videos cannot be decoded, more "
                f"than the {self._max_share:.0%} that max_broken_share allows ({self._named()}); "
                "repair or remove them and prepare the dataset again"
            )

    @property
    def count(self) -> int:
        """Distinct broken videos so far."""
        return len(self._failures)

    def by_reason(self) -> dict[str, int]:
        """Distinct broken videos so far per reason (`container.KINDS`), in alphabetical order."""
        return count_reasons(self._failures)

    def names(self) -> dict[str, str]:
        """Video id -> reason for every broken video so far, in alphabetical order."""
        return dict(sorted(self._failures.items()))

    def summary(self) -> str:
        """One line for the end of an epoch; empty when nothing is broken."""
        if not self._failures:
            return ""
        reasons = ", ".join(f"{count} {kind}" for kind, count in self.by_reason().items())
        return f"{self.count} broken videos masked ({reasons}): {self._named()}"

    def _named(self) -> str:
        names = list(self.names())
        more = len(names) - _NAMED
        return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
