"""Encoded bytes -> an open file with one video stream, its packets, and what a video may cost.

Everything up to the decoder: opening, choosing the stream, limits, demuxing. Which packets are decoded is `decode`'s business.
Images are files with one frame. No JAX here: this runs in worker processes.
"""

from __future__ import annotations

import dataclasses
import io
import time
import warnings

import av
from PIL import Image

KINDS = (
    "open",
    "no_video_stream",
    "no_decoder",
    "no_packets",
    "demux",
    "no_frames",
    "damaged",
    "too_large",
    "timeout",
    "crash",  # found at preparation only: the decoder ended or blocked its process
)
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"  # cannot occur inside the compressed data of a scan
# (place, bytes, FFmpeg's name) of common formats: named, FFmpeg need not try all it knows, a third of opening a small file.
_MAGIC = ((4, b"ftyp", "mov"), (0, b"\x1aE\xdf\xa3", "matroska"), (8, b"AVI ", "avi"))
_IMAGE_FORMATS = ("image2", "_pipe")  # how FFmpeg's names of still image formats begin or end


class VideoError(Exception):
    """A video that cannot be used. `kind` is one of `KINDS`, `detail` says more."""

    def __init__(self, kind: str, detail: str):
        super().__init__(kind, detail)  # both, so that the exception pickles
        self.kind = kind
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one video may cost.

    Attributes:
        budget_s: seconds of wall clock. Checked between packets: what a single call of the decoder takes is bounded by
            `max_pixels`, and a decoder that never returns by the watch over worker processes (docs/data.md).
        max_pixels: of one source frame (the default: 100 MB as YUV).
        max_bytes: of compressed data kept in memory.
        max_packets: frames of a file (the default: nearly five hours at 60 per second).
    """

    budget_s: float = 30.0
    max_pixels: int = 8192 * 8192
    max_bytes: int = 1 << 30
    max_packets: int = 1 << 20

    def check_size(self, width: int, height: int) -> None:
        """Raises `VideoError("too_large")` for a frame of more than `max_pixels`."""
        if width * height > self.max_pixels:
            raise VideoError("too_large", f"frames of {width} x {height} pixels exceed the limit of {self.max_pixels} pixels")


class Deadline:
    """Raises `VideoError("timeout")` once the budget is used up; checked between packets."""

    def __init__(self, budget_s: float):
        self._budget_s = budget_s
        self._end = time.monotonic() + budget_s

    def check(self) -> None:
        if time.monotonic() > self._end:
            raise VideoError("timeout", f"not decoded within {self._budget_s:g} s")


def open_container(data: bytes, limits: Limits) -> av.container.InputContainer:
    """Opens a file in memory.

    Raises:
        VideoError: empty, not a media file, or larger than the limits.
    """
    if not data:
        raise VideoError("open", "the file is empty")
    if len(data) > limits.max_bytes:
        raise VideoError("too_large", f"{len(data)} bytes exceed the limit of {limits.max_bytes} bytes")
    try:
        # The decoder that FFmpeg starts to learn about a stream must not allocate what the header declares.
        options = {"max_pixels": str(limits.max_pixels)}
        container = _opened(data, options)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError("open", f"not a video file that FFmpeg knows ({reason(error)})") from error
    if is_image(container):
        try:
            _check_image(container.format.name, data, limits)
        except VideoError:
            container.close()
            raise
    return container


# Titles and tags may be in any encoding. PyAV 19 takes them as they are and has no such option.
_ANY_TEXT = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}


def _opened(data: bytes, options: dict[str, str]) -> av.container.InputContainer:
    for place, magic, name in _MAGIC:
        if data.startswith(magic, place):
            try:
                return av.open(io.BytesIO(data), format=name, options=options, **_ANY_TEXT)
            except (av.FFmpegError, OSError, ValueError):
                break  # it only looked like it
    return av.open(io.BytesIO(data), options=options, **_ANY_TEXT)


def is_image(container: av.container.InputContainer) -> bool:
    """Whether the file is a still image (an animated GIF is a video)."""
    name = container.format.name
    return name.startswith(_IMAGE_FORMATS[0]) or name.endswith(_IMAGE_FORMATS[1])


def video_stream(container: av.container.InputContainer, limits: Limits) -> av.VideoStream:
    """The first real video stream (no cover picture), set up for decoding; all others are discarded.

    Raises:
        VideoError: there is none, no decoder for it, or its frames are too large.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise VideoError("no_video_stream", "the file has no video stream")
    stream = streams[0]
    context = stream.codec_context
    if context is None:
        raise VideoError("no_decoder", "FFmpeg has no decoder for the video stream")
    # One thread: many videos are decoded at once, and FFmpeg's own threads cost 30 % more CPU per video and
    # do not survive a fork (docs/data.md).
    context.thread_type, context.thread_count = "NONE", 1
    context.options = {"max_pixels": str(limits.max_pixels)}  # the stream may contradict the container
    limits.check_size(context.width, context.height)
    for other in container.streams:
        if other is not stream:
            other.discard = av.stream.Discard.all
    return stream


def demux(
    container: av.container.InputContainer, stream: av.VideoStream, limits: Limits, deadline: Deadline
) -> list[av.Packet]:
    """All packets of the stream in decoding order, without a cut-off last one.

    Raises:
        VideoError: no packets, an error while reading, or more than the limits allow.
    """
    packets: list[av.Packet] = []
    try:
        for packet in container.demux(stream):
            deadline.check()
            if packet.size:
                packets.append(packet)
            if len(packets) > limits.max_packets:
                raise VideoError("too_large", f"more than the limit of {limits.max_packets} frames")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError("demux", reason(error)) from error
    while packets and packets[-1].is_corrupt:
        packets.pop()
    if not packets:
        raise VideoError("no_packets", "the video stream is empty")
    return packets


def stated_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Length as the container states it; 0 if it does not, and for images."""
    if is_image(container):
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return 0.0 if container.duration is None else container.duration / av.time_base


def reason(error: Exception) -> str:
    """FFmpeg's words for what went wrong."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _check_image(name: str, data: bytes, limits: Limits) -> None:
    """What FFmpeg does not tell: an image's size before it is decoded, and that a JPEG is cut off (it fills up with grey)."""
    if name == "jpeg_pipe" and data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN):
        raise VideoError("damaged", "the image is cut off")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise VideoError("too_large", f"an image beyond all limits ({error})") from error
    except (OSError, ValueError, SyntaxError):
        return  # not for Pillow; FFmpeg has the last word, under its own limit
    limits.check_size(width, height)
