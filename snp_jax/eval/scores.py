"""Every score of a retrieval evaluation, in memory and in a file: for looking at single queries, and for figures."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from snp_jax.data.corpus_files import write_atomically
from snp_jax.errors import UserError


class RetrievalScores(NamedTuple):
    """Scores of Q texts with V videos.

    Attributes:
        texts: str `[Q]`.
        video: int `[Q]`, the row of each text's own video.
        videos: str `[V]`, names.
        valid: bool `[V]`, False where the video could not be decoded.
        stage1: float32 `[Q, V]`; -inf for undecodable videos.
        stage2: float32 `[Q, V]`, matching scores; NaN where stage 2 did not score the pair.
        ranking: float `[Q, V]`, order of the videos for each text after both stages (only the order means something).
        positives: bool `[Q, V]`, what counts as correct.
    """

    texts: np.ndarray
    video: np.ndarray
    videos: np.ndarray
    valid: np.ndarray
    stage1: np.ndarray
    stage2: np.ndarray
    ranking: np.ndarray
    positives: np.ndarray


def save_scores(path: Path, scores: RetrievalScores) -> None:
    """Writes an .npz file with an array for every attribute, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **scores._asdict())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def load_scores(path: Path) -> RetrievalScores:
    """Reads what `save_scores` wrote.

    Raises:
        UserError: there is no such file, or it is another.
    """
    try:
        with np.load(path) as arrays:
            return RetrievalScores(**{name: arrays[name] for name in RetrievalScores._fields})
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: write it with tools/eval.py --scores {path}") from None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no retrieval scores ({error}): write it with tools/eval.py --scores {path}") from None
