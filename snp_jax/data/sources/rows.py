"""What every dataset is turned into before it is stored: rows (annotation + where the bytes are), by split.

The modules of the datasets produce these, `planning` checks and counts them, `shards` writes them.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from snp_jax.data.records import Annotation
from snp_jax.errors import UserError


@dataclasses.dataclass(frozen=True, slots=True)
class Media:
    """Where the bytes of a video or an image are: a file, or a part of one (a member of a tar archive)."""

    path: str
    size: int
    offset: int = 0

    @classmethod
    def file(cls, path: str | Path) -> Media | None:
        """The whole of a file; None if there is no such file."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        return cls(str(path), status.st_size) if stat.S_ISREG(status.st_mode) else None

    def read(self) -> bytes:
        """The bytes.

        Raises:
            UserError: the file cannot be read, or is shorter than it was.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); check the file and run again") from error
        if len(data) != self.size:
            raise UserError(f"{self.path}: has changed while the dataset was prepared; run the same command again")
        return data


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One example to be stored. `media` is None if the annotated file is not there."""

    annotation: Annotation
    media: Media | None


@dataclasses.dataclass(frozen=True)
class Expected:
    """Published sizes of a split's annotations; None = not known.

    Attributes:
        certain: False for numbers that are widely quoted but were not checked on the files: a difference is noted, not an
            error.
    """

    videos: int | None = None
    captions: int | None = None
    questions: int | None = None
    choices: int | None = None
    certain: bool = True


@dataclasses.dataclass(frozen=True)
class Split:
    """A split as a dataset's module reads it.

    Attributes:
        name: "train", "val" or "test".
        rows: in a fixed order; may be read lazily, once. Ids are unique within the dataset.
        expected: published sizes.
        roster: the ids that the complete split has, where they are known: tells which annotations are missing.
        keep_missing: store an annotation whose file is not there (with no bytes), so that its queries count in an evaluation;
            otherwise it is left out.
        counts: what the annotation files hold, for a split whose rows hold less (answers outside the vocabulary); filled by
            the time `rows` is used up.
    """

    name: str
    rows: Iterable[Row]
    expected: Expected = Expected()
    roster: Iterable[str] = ()
    keep_missing: bool = False
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reading:
    """A dataset as its module reads it.

    Attributes:
        name: of the dataset and its variant, "msrvtt/9k_1ka".
        splits: in the order in which they are prepared.
        files: further files of the prepared dataset (answer vocabulary): name -> content.
        notes: what the user should know, one sentence each.
    """

    name: str
    splits: tuple[Split, ...]
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
