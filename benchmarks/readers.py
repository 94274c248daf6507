"""The decoders that `input.py` compares, each in a process of its own that decodes on demand and tells its CPU time.

Sparse: 16 random frames, one from each of 16 equal parts, at 224 x 224, as uint8 RGB. Sequential: every frame, not converted.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import processes

from snp_jax.data import decode, sampling

NUM_FRAMES, SIDE = 16, 224
PACKAGES = {"decord": "decord", "opencv": "cv2", "torchcodec": "torchcodec", "ffmpeg": "imageio_ffmpeg", "torch": "torch"}


def choice(seed: int) -> decode.FrameChoice:
    """Number of frames -> the wanted ones; the same for every reader."""
    return sampling.SegmentSampling(tuple(np.random.default_rng(seed).random(NUM_FRAMES)), 1).indices


def ours(path: str, seed: int) -> np.ndarray:
    return decode.decode_clip(Path(path).read_bytes(), choice(seed), (SIDE, SIDE))


def ours_sequential(path: str, seed: int) -> int:
    del seed
    return sum(1 for _ in decode.frames(Path(path).read_bytes()))


def with_decord(path: str, seed: int) -> np.ndarray:
    import decord

    reader = decord.VideoReader(path, ctx=decord.cpu(0), width=SIDE, height=SIDE, num_threads=1)
    return reader.get_batch(choice(seed)(len(reader))).asnumpy()


def with_opencv(path: str, seed: int) -> np.ndarray:
    """Reads on from frame to frame: seeking is slower, and not exact."""
    import cv2

    cv2.setNumThreads(1)
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = set(choice(seed)(count).tolist())
    frames = []
    for number in range(count):
        if not video.grab():
            break
        if number in wanted:
            picture = cv2.resize(video.retrieve()[1], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
            frames.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    video.release()
    return np.stack(frames)


def with_torchcodec(path: str, seed: int) -> np.ndarray:
    import torch
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="exact")
    frames = video.get_frames_at(choice(seed)(len(video)).tolist()).data
    small = torch.nn.functional.interpolate(frames, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return small.permute(0, 2, 3, 1).contiguous().numpy()


READERS: dict[str, Callable[[str, int], object]] = {
    "ours": ours,
    "ours_sequential": ours_sequential,
    "decord": with_decord,
    "opencv": with_opencv,
    "torchcodec": with_torchcodec,
}


def missing(name: str) -> str | None:
    """Why a reader cannot be used; None if it can."""
    package = PACKAGES.get(name)
    if package is None:
        return None
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed (pip install 'snp-jax[bench]')"
    ended = subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True, text=True, check=False)
    return f"{package} does not load: {ended.stderr.strip().splitlines()[-1][-160:]}" if ended.returncode else None


class Reader:
    """A process with one reader."""

    def __init__(self, name: str):
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, name), daemon=True)
        self._process.start()
        there.close()
        self.peak_mib = 0.0

    def cpu_s(self, paths: Sequence[Path], seed: int) -> float:
        """CPU seconds per clip.

        Raises:
            RuntimeError: the reader failed on one of them.
        """
        self._connection.send(([str(path) for path in paths], seed))
        seconds, self.peak_mib, problem = self._connection.recv()
        if problem:
            raise RuntimeError(problem)
        return seconds

    def close(self) -> None:
        self._connection.send(None)
        self._process.join()


def _serve(connection: Connection, name: str) -> None:
    read = READERS[name]
    while (message := connection.recv()) is not None:
        paths, seed = message
        started, problem = time.process_time(), ""
        try:
            for number, path in enumerate(paths):
                read(path, seed * len(paths) + number)
        except Exception as error:  # a peer that cannot read a file: its row says so
            problem = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
        connection.send(((time.process_time() - started) / len(paths), processes.peak_rss_mib(), problem))


def ffmpeg_cpu_s(paths: Sequence[Path], repeats: int) -> float:
    """CPU seconds per clip of `ffmpeg -f null`: every frame decoded by one thread and thrown away, in one process."""
    import imageio_ffmpeg

    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listing:
        listing.write("".join(f"file '{path.resolve()}'\n" for path in paths) * repeats)
        listing.flush()
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", "-f", "concat", "-safe", "0"]
        command += ["-i", listing.name, "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "null", "-"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds / (len(paths) * repeats)
