"""The videos of `input.py`: the same ten seconds in the containers, codecs and groups of pictures that people have.

Written once to a folder and kept. The picture is synthetic (textures that move, and grain) unless a video is given.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

SECONDS, RATE = 10, 25
_H264 = {"preset": "medium", "crf": "23", "bf": "3", "threads": "1", "sc_threshold": "0"}
_GRAIN = 6.0  # standard deviation, of 255


@dataclasses.dataclass(frozen=True)
class Kind:
    """One row of the tables."""

    name: str
    suffix: str
    codec: str
    size: tuple[int, int]
    options: dict[str, str]
    count: int


KINDS = (
    Kind("h264_240p_gop12", "mp4", "libx264", (240, 320), {**_H264, "g": "12"}, 6),
    Kind("h264_240p_gop250", "mp4", "libx264", (240, 320), {**_H264, "g": "250"}, 6),
    Kind("h264_1080p_gop12", "mp4", "libx264", (1080, 1920), {**_H264, "preset": "faster", "g": "12"}, 2),
    Kind("h264_1080p_gop250", "mp4", "libx264", (1080, 1920), {**_H264, "preset": "faster", "g": "250"}, 2),
    Kind("xvid_240p_avi", "avi", "mpeg4", (240, 320), {"g": "250", "qmin": "4", "qmax": "4", "b": "50M"}, 6),
    Kind("vp9_240p_webm", "webm", "libvpx-vp9", (240, 320), {"g": "128", "crf": "33", "b": "0", "cpu-used": "4"}, 6),
)


def write_clips(root: Path, source: Path | None, counts: dict[str, int]) -> dict[str, list[Path]]:
    """Writes what is not there yet: kind -> files.

    Args:
        root: where to.
        source: a video to take the pictures from; None = synthetic ones.
        counts: kind -> number of clips.
    """
    files: dict[str, list[Path]] = {}
    for kind in KINDS:
        files[kind.name] = [root / f"{kind.name}_{i}.{kind.suffix}" for i in range(counts[kind.name])]
        for i, path in enumerate(files[kind.name]):
            if not path.exists():
                shown = pictures(kind.size, seed=i) if source is None else _pictures_of(source, kind.size, skip=i * RATE)
                part = path.with_name(f"part_{path.name}")
                write_clip(part, shown, kind.codec, kind.size, kind.options)
                os.replace(part, path)
    return files


def write_clip(path: Path, shown: Iterator[np.ndarray], codec: str, size: tuple[int, int], options: dict[str, str]) -> None:
    """Encodes RGB pictures uint8 `[H, W, 3]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    convert = VideoReformatter()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for picture in shown:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(convert.reformat(frame, format="yuv420p", threads=1)))
        container.mux(stream.encode(None))


def pictures(size: tuple[int, int], seed: int, num_frames: int = SECONDS * RATE) -> Iterator[np.ndarray]:
    """Two smooth textures that drift at different speeds, a patch that crosses the picture, and grain."""
    rng = np.random.default_rng(seed)
    height, width = size
    unit = height / 240
    back, front = (_texture(rng, height, width, cell) for cell in (6, 24))
    grain = rng.normal(0, _GRAIN, (height + 64, width + 64, 1)).astype(np.float32)
    for t in range(num_frames):
        picture = 0.6 * np.roll(back, (int(t * unit), int(2 * t * unit)), (0, 1))
        picture += 0.4 * np.roll(front, (0, -int(3 * t * unit)), (0, 1))
        y, x = int(height * (0.3 + 0.2 * np.sin(t / 20))), int(t / num_frames * width * 0.8)
        picture[y : y + height // 4, x : x + width // 5] *= 0.4
        dy, dx = rng.integers(0, 64, 2)
        yield np.clip(picture + grain[dy : dy + height, dx : dx + width], 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Random colours at `cells` points a side, smooth in between: float32 `[H, W, 3]`, 0 to 255; its edges meet."""
    coarse = rng.uniform(0, 255, (cells, cells, 3)).astype(np.float32)
    for axis, length in ((0, height), (1, width)):
        place = np.arange(length) * cells / length
        low, part = np.floor(place).astype(int), (place % 1).astype(np.float32)
        part = part.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        coarse = coarse.take(low, axis) * (1 - part) + coarse.take((low + 1) % cells, axis) * part
    return coarse


def _pictures_of(source: Path, size: tuple[int, int], skip: int) -> Iterator[np.ndarray]:
    """Ten seconds of a video from frame `skip` on, again from its start when it ends, with grain when it is enlarged."""
    rng = np.random.default_rng(skip)
    grain = rng.normal(0, _GRAIN, (size[0] + 64, size[1] + 64, 1)).astype(np.int16)
    convert = VideoReformatter()
    given = 0
    while given < SECONDS * RATE:
        with av.open(str(source)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if given == 0 and number < skip:
                    continue
                enlarged = frame.height < size[0]
                picture = convert.reformat(frame, width=size[1], height=size[0], format="rgb24", threads=1).to_ndarray()
                if enlarged:
                    y, x = rng.integers(0, 64, 2)
                    picture = np.clip(picture + grain[y : y + size[0], x : x + size[1]], 0, 255).astype(np.uint8)
                yield picture
                given += 1
                if given == SECONDS * RATE:
                    return
        skip = 0
