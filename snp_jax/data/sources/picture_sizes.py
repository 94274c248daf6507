"""How large the pictures of a prepared dataset are: `sizes_<split>.npy` beside it, written when it is prepared.

For a dataset from before there was such a file, every record is looked at once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from snp_jax.data import decode
from snp_jax.data.corpus_files import write_atomically
from snp_jax.data.sources.prepared import VideoSource
from snp_jax.errors import UserError


def sizes_file(directory: str | Path, split: str) -> Path:
    """Where the sizes of a split are kept."""
    return Path(directory) / f"sizes_{split}.npy"


def sizes_content(sizes: Sequence[Sequence[int]]) -> bytes:
    """The file for (height, width) of every video of a split, in storage order."""
    content = io.BytesIO()
    np.save(content, np.minimum(np.array(sizes, np.int64).reshape(-1, 2), np.iinfo(np.uint16).max).astype(np.uint16))
    return content.getvalue()


def read_sizes(source: VideoSource) -> np.ndarray:
    """(height, width) of every video of a split, upright, uint16 `[V, 2]`; (0, 0) where it cannot be decoded.

    Looks at the videos, and keeps what it found where the directory can be written, if nobody has done so before.
    """
    path = sizes_file(source.directory, source.split)
    if path.exists():
        sizes = np.load(path)
        if sizes.shape == (len(source), 2):
            return sizes
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        looked = pool.map(lambda row: _first_size(source[row].video), range(len(source)))
        bar = tqdm(looked, total=len(source), desc=f"sizes of {source.split} videos", unit="video", disable=None, delay=2)
        sizes = np.array(list(bar), np.uint16).reshape(-1, 2)
    with contextlib.suppress(UserError):  # a dataset that is read-only is looked at each time
        write_atomically(path, sizes_content(sizes))
    return sizes


def _first_size(data: bytes) -> tuple[int, int]:
    try:
        with contextlib.closing(decode.frames(data)) as found:
            _, frame = next(found)
            return frame.height, frame.width
    except (decode.VideoError, StopIteration):
        return 0, 0
