"""Encoded video bytes -> the wanted frames, exact to the frame.

The file is demuxed once; its packets, ordered by time stamp, say how many frames there are and which to
decode for the wanted ones: one run per group of pictures that holds a wanted frame, skipping pictures nobody
refers to. Which frames are wanted is `sampling`'s business; batching and counting of failures are
`pipeline`'s and `failures`'. No JAX here: this runs in worker processes. Why these steps and no others:
docs/data.md ("Decoding").
"""

from __future__ import annotations

import bisect
import dataclasses
import io
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

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
)
MAX_PIXELS = 8192 * 8192  # of one source frame: 100 MB as YUV
# Decoders in which a picture marked "no reference" is needed by no other. HEVC is absent on purpose: there,
# such a picture may serve a higher temporal layer.
_SKIPS_NONREF = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video", "vc1", "wmv3", "vp8"})

FrameChoice = Callable[[int], np.ndarray]


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
    """What one video may cost: seconds of wall clock, and pixels of a source frame."""

    budget_s: float = 30.0
    max_pixels: int = MAX_PIXELS


def decode_clip(
    data: bytes,
    choose: FrameChoice,
    image_size: tuple[int, int],
    *,
    start: float | None = None,
    end: float | None = None,
    limits: Limits | None = None,
) -> np.ndarray:
    """Decodes the chosen frames of an encoded video.

    Args:
        data: the file.
        choose: number of frames n > 0 -> indices `[T]` into them, in any order, repeats allowed. Called
            again, with another n, if the container promised more frames than there are.
        image_size: (H, W) of the result; the picture is stretched to it after its rotation was applied.
        start, end: seconds from the first frame; only frames on screen in this span are counted and chosen.
        limits: see `Limits`.

    Returns:
        uint8 RGB `[T, H, W, 3]`.

    Raises:
        VideoError: the file is no usable video. Damage in the part that had to be decoded counts; a file
            whose tail is missing is used as far as it goes.
    """
    limits = limits or Limits()
    deadline = _Deadline(limits.budget_s)
    with _open(data) as container:
        stream = _video_stream(container, limits)
        packets = _demux(container, stream, deadline)
        take = _Converter(image_size, limits)
        span = (start, end)
        shown = _display_order(packets)
        if shown is not None:
            first, last = _frames_in_span([packets[i].pts for i in shown], float(stream.time_base), span)
            wanted = [shown[first + i] for i in choose(last - first).tolist()]  # packet numbers, repeats included
            _decode_planned(stream.codec_context, packets, set(wanted), take, deadline)
            if all(packets[i].pts in take.images for i in wanted):
                return np.stack([take.images[packets[i].pts] for i in wanted])
            stream.codec_context.flush_buffers()
        return _decode_counted(stream, packets, choose, span, take, deadline)


def duration_s(path: str | Path) -> float | None:
    """Length in seconds as the container states it; None for a file without a readable video stream."""
    try:
        with _open(str(path)) as container:
            stream = _video_stream(container, Limits())
            if stream.duration is not None and stream.time_base is not None:
                return float(stream.duration * stream.time_base)
            return None if container.duration is None else container.duration / av.time_base
    except VideoError:
        return None


class _Deadline:
    """Raises `VideoError("timeout")` once the budget is used up; checked between packets."""

    def __init__(self, budget_s: float):
        self._budget_s = budget_s
        self._end = time.monotonic() + budget_s

    def check(self) -> None:
        if time.monotonic() > self._end:
            raise VideoError("timeout", f"not decoded within {self._budget_s:g} s")


class _Converter:
    """Scales frames to the result's size; keeps them by time stamp (or by number, see `_decode_counted`)."""

    def __init__(self, image_size: tuple[int, int], limits: Limits):
        self._height, self._width = image_size
        self._limits = limits
        self._reformatter = VideoReformatter()  # one for all frames: building the scaler costs more than using it
        self.images: dict[int, np.ndarray] = {}

    def keep(self, frame: av.VideoFrame, key: int) -> None:
        _check_size(frame.width, frame.height, self._limits)
        quarter_turns = round(frame.rotation / 90) % 4
        height, width = (self._width, self._height) if quarter_turns % 2 else (self._height, self._width)
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        self.images[key] = np.rot90(rgb.to_ndarray(), quarter_turns)  # FFmpeg stores rotation, it does not apply it


def _open(source: bytes | str) -> av.container.InputContainer:
    if isinstance(source, bytes):
        if not source:
            raise VideoError("open", "the file is empty")
        source = io.BytesIO(source)
    try:
        return av.open(source, metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError("open", f"not a video file that FFmpeg knows ({_reason(error)})") from error


def _video_stream(container: av.container.InputContainer, limits: Limits) -> av.VideoStream:
    """The first real video stream (no cover picture), set up for decoding; all others are discarded."""
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
    _check_size(context.width, context.height, limits)
    for other in container.streams:
        if other is not stream:
            other.discard = av.stream.Discard.all
    return stream


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise VideoError("too_large", f"frames of {width} x {height} pixels exceed the limit of {limits.max_pixels} pixels")


def _demux(container: av.container.InputContainer, stream: av.VideoStream, deadline: _Deadline) -> list[av.Packet]:
    """All packets of the stream in decoding order, without a cut-off last one."""
    packets = []
    try:
        for packet in container.demux(stream):
            deadline.check()
            if packet.size:
                packets.append(packet)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError("demux", _reason(error)) from error
    while packets and packets[-1].is_corrupt:
        packets.pop()
    if not packets:
        raise VideoError("no_packets", "the video stream is empty")
    return packets


def _display_order(packets: Sequence[av.Packet]) -> list[int] | None:
    """Packet numbers in display order; None if time stamps are missing or not unique."""
    shown = [i for i, packet in enumerate(packets) if not packet.is_discard]  # an edit list hides packets
    stamps = [packets[i].pts for i in shown]
    if not shown or None in stamps or len(set(stamps)) != len(stamps):
        return None
    if any(packet.pts is None for packet in packets):
        return None
    return sorted(shown, key=lambda i: packets[i].pts)


def _frames_in_span(stamps: Sequence[int], unit_s: float, span: tuple[float | None, float | None]) -> tuple[int, int]:
    """First and one-past-last of the frames on screen within the span.

    Frame i appears at `stamps[i] * unit_s` seconds.
    """
    start, end = span
    if start is None and end is None:
        return 0, len(stamps)
    times = [(stamp - stamps[0]) * unit_s for stamp in stamps]
    frame_s = times[-1] / (len(times) - 1) if len(times) > 1 else 0.0
    length = times[-1] + frame_s
    if start is not None and start >= max(length, unit_s):
        raise VideoError("no_frames", f"the span starts at {start:g} s, the video ends at {length:.3g} s")
    first = 0 if start is None else max(bisect.bisect_right(times, start) - 1, 0)
    last = len(times) if end is None else max(bisect.bisect_left(times, end), first + 1)
    return first, last


def plan_runs(pts: Sequence[int], keys: Sequence[int], targets: Sequence[int]) -> list[tuple[int, int]]:
    """Which packets to feed for the targets: runs (first, last), both inclusive, in decoding order.

    Args:
        pts: time stamp of every packet, in decoding order.
        keys: numbers of the key packets, ascending, starting with the first packet that can be decoded.
        targets: numbers of the packets whose frames are wanted, ascending.

    A run starts at the last key packet that precedes the target both in decoding order and on screen:
    pictures that follow a key picture but are shown before it (open groups) refer to the previous group.
    Going on from the last packet fed is preferred to starting again, so long groups degenerate to sequential
    decoding and short ones to jumps.
    """
    runs: list[tuple[int, int]] = []
    for target in targets:
        key = max(bisect.bisect_right(keys, target) - 1, 0)
        while key > 0 and pts[keys[key]] > pts[target]:
            key -= 1
        if runs and keys[key] <= runs[-1][1]:
            runs[-1] = (runs[-1][0], target)
        else:
            runs.append((keys[key], target))
    return runs


def _decode_planned(
    context: av.VideoCodecContext,
    packets: Sequence[av.Packet],
    targets: set[int],
    take: _Converter,
    deadline: _Deadline,
) -> None:
    """Decodes the targets (packet numbers) into `take`, by time stamp; the decoder may withhold some."""
    pts = [packet.pts for packet in packets]
    wanted = {pts[i] for i in targets}
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe] or [0]
    may_skip = context.name in _SKIPS_NONREF
    for number, (first, last) in enumerate(plan_runs(pts, keys, sorted(targets))):
        if number:
            context.flush_buffers()
        for i in range(first, last + 1):
            deadline.check()
            context.skip_frame = "NONREF" if may_skip and i not in targets else "DEFAULT"
            for frame in _decode(context, packets[i], pts[first]):
                if frame.pts in wanted:
                    take.keep(frame, frame.pts)
        context.skip_frame = "DEFAULT"
        for frame in _decode(context, None, pts[first]):
            if frame.pts in wanted:
                take.keep(frame, frame.pts)


def _decode_counted(
    stream: av.VideoStream,
    packets: Sequence[av.Packet],
    choose: FrameChoice,
    span: tuple[float | None, float | None],
    take: _Converter,
    deadline: _Deadline,
) -> np.ndarray:
    """Decodes everything and numbers the frames as they come: for files whose time stamps do not tell.

    Assumes one frame per packet; if the decoder gives another number, decodes once more with that one.
    """
    context = stream.codec_context
    rate = float(stream.average_rate or 25)
    expected = len(packets)
    for _attempt in range(2):
        take.images.clear()
        first, last = _frames_in_span(range(expected), 1 / rate, span)
        wanted = [first + i for i in choose(last - first).tolist()]
        count = 0
        for packet in (*packets, None):
            deadline.check()
            for frame in _decode(context, packet, None):
                if count in wanted:
                    take.keep(frame, count)
                count += 1
        if count == expected:
            return np.stack([take.images[i] for i in wanted])
        if count == 0:
            raise VideoError("no_frames", f"{len(packets)} packets, but not one frame")
        expected = count
        context.flush_buffers()
    raise VideoError("damaged", "decoding the same packets twice gave different numbers of frames")


def _decode(context: av.VideoCodecContext, packet: av.Packet | None, first_pts: int | None) -> Iterator[av.VideoFrame]:
    """The frames that one packet (None: the end) brings out; an error or a corrupt frame is damage."""
    try:
        frames = context.decode(packet)
    except av.error.DecoderNotFoundError as error:
        raise VideoError("no_decoder", _reason(error)) from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError("damaged", _reason(error)) from error
    for frame in frames:
        # Shown before the key picture that started the run: incomplete by construction, and never a target.
        leading = first_pts is not None and frame.pts is not None and frame.pts < first_pts
        if frame.is_corrupt and not leading:
            raise VideoError("damaged", "the decoder marked a frame as corrupt")
        yield frame


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
