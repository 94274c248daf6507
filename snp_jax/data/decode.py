"""Encoded video bytes -> the wanted frames, exact to the frame.

The file is demuxed once; its packets, ordered by time stamp, say how many frames there are and which to
decode for the wanted ones: one run per group of pictures that holds a wanted frame, skipping pictures nobody
refers to. Opening files and their limits is in `container`; which frames are wanted is `sampling`'s business;
batching and counting of failures are `pipeline`'s and `failures`'. No JAX here: this runs in worker processes.
Why these steps and no others: docs/data.md ("Decoding").
"""

from __future__ import annotations

import bisect
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from snp_jax.data.container import (
    KINDS,
    Deadline,
    Limits,
    VideoError,
    demux,
    is_image,
    open_container,
    reason,
    stated_seconds,
    video_stream,
)

__all__ = ["KINDS", "FrameChoice", "Limits", "Probe", "VideoError", "decode_clip", "fit_inside", "frames", "plan_runs", "probe"]

# Decoders in which a picture marked "no reference" is needed by no other. HEVC is absent on purpose: there,
# such a picture may serve a higher temporal layer.
_SKIPS_NONREF = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video", "vc1", "wmv3", "vp8"})

FrameChoice = Callable[[int], np.ndarray]
"""Number of frames n > 0 -> int64 indices `[T]` into them."""


def decode_clip(
    data: bytes,
    choose: FrameChoice,
    image_size: tuple[int, int],
    *,
    keep_aspect: bool = False,
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
        keep_aspect: it is made as large as fits into (H, W) instead (`fit_inside`, by the size of the first frame).
        start, end: seconds from the first frame; only frames on screen in this span are counted and chosen.
        limits: see `Limits`.

    Returns:
        uint8 RGB `[T, H, W, 3]`; with `keep_aspect` one of the sides may be shorter.

    Raises:
        VideoError: the file is no usable video. Damage in the part that had to be decoded counts; a file
            whose tail is missing is used as far as it goes.
    """
    limits = limits or Limits()
    take = _Converter(image_size, keep_aspect, limits)
    with open_container(data, limits) as container:
        return _decode_chosen(container, video_stream(container, limits), choose, take, (start, end), limits)


def fit_inside(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The largest (height, width) of the same aspect ratio inside a box; rounded down, as the release does, at least 1."""
    (height, width), (most_rows, most_columns) = size, box
    if height * most_columns >= width * most_rows:
        return most_rows, max(width * most_rows // height, 1)
    return max(height * most_columns // width, 1), most_columns


@dataclasses.dataclass(frozen=True)
class Probe:
    """What `probe` saw. `seconds` is what the container states, 0 for an image; `width`, `height` are the upright picture's."""

    frames: int
    seconds: float
    width: int
    height: int
    image: bool


def probe(data: bytes, limits: Limits | None = None) -> Probe:
    """Decodes the first, the middle and the last frame.

    Raises:
        VideoError: as `decode_clip`.
    """
    limits = limits or Limits()
    seen = 0

    def choose(count: int) -> np.ndarray:
        nonlocal seen
        seen = count
        return np.array([0, count // 2, count - 1])

    take = _Converter((16, 16), False, limits)
    with open_container(data, limits) as container:
        stream = video_stream(container, limits)
        _decode_chosen(container, stream, choose, take, (None, None), limits)
        height, width = take.upright
        return Probe(seen, stated_seconds(container, stream), width, height, is_image(container))


def frames(data: bytes, limits: Limits | None = None) -> Iterator[tuple[float, av.VideoFrame]]:
    """All frames in display order, upright, each with the time at which it appears (seconds from the first frame).

    Raises:
        VideoError: as `decode_clip`, here for damage anywhere in the file.
    """
    limits = limits or Limits()
    deadline = Deadline(limits.budget_s)
    with open_container(data, limits) as container:
        stream = video_stream(container, limits)
        packets = demux(container, stream, limits, deadline)
        rate = float(stream.average_rate or 25)
        first = None
        count = 0
        for packet in (*packets, None):
            deadline.check()
            for frame in _decode(stream.codec_context, packet, None):
                limits.check_size(frame.width, frame.height)
                seconds = count / rate if frame.pts is None else float(frame.pts * stream.time_base)
                first = seconds if first is None else first
                count += 1
                yield seconds - first, _upright(frame)
        if not count:
            raise VideoError("no_frames", f"{len(packets)} packets, but not one frame")


def _upright(frame: av.VideoFrame) -> av.VideoFrame:
    quarter_turns = round(frame.rotation / 90) % 4
    if not quarter_turns:
        return frame
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns)))


def _decode_chosen(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    choose: FrameChoice,
    take: _Converter,
    span: tuple[float | None, float | None],
    limits: Limits,
) -> np.ndarray:
    """See `decode_clip`."""
    deadline = Deadline(limits.budget_s)
    packets = demux(container, stream, limits, deadline)
    pts = [packet.pts for packet in packets]
    shown = _display_order(packets, pts)
    if shown is not None:
        first, last = _frames_in_span([pts[i] for i in shown], float(stream.time_base), span)
        wanted = [shown[first + i] for i in choose(last - first).tolist()]  # packet numbers, repeats included
        _decode_planned(stream.codec_context, packets, pts, set(wanted), take, deadline)
        if all(pts[i] in take.images for i in wanted):
            return np.stack([take.images[pts[i]] for i in wanted])
        stream.codec_context.flush_buffers()
    return _decode_counted(stream, packets, choose, span, take, deadline)


class _Converter:
    """Scales frames to the result's size; keeps them by time stamp (or by number, see `_decode_counted`)."""

    def __init__(self, image_size: tuple[int, int], keep_aspect: bool, limits: Limits):
        self._size = image_size
        self._keep_aspect = keep_aspect
        self.upright = (0, 0)  # (height, width) of the pictures, before scaling
        self._limits = limits
        self._scaler, self._packer = _reformatters()
        self.images: dict[int, np.ndarray] = {}

    def keep(self, frame: av.VideoFrame, key: int) -> None:
        self._limits.check_size(frame.width, frame.height)
        quarter_turns = round(frame.rotation / 90) % 4  # FFmpeg stores rotation, it does not apply it
        if self.upright == (0, 0):
            self.upright = (frame.width, frame.height) if quarter_turns % 2 else (frame.height, frame.width)
            self._size = fit_inside(self.upright, self._size) if self._keep_aspect else self._size
        height, width = self._size[::-1] if quarter_turns % 2 else self._size
        if (frame.width, frame.height) != (width, height):
            # To four bytes a pixel first: FFmpeg has vector code for that, not for three, and drops the fourth at once.
            frame = self._scaler.reformat(
                frame, width=width, height=height, format="rgba", interpolation=Interpolation.BILINEAR, threads=1
            )
        image = self._packer.reformat(frame, format="rgb24", threads=1).to_ndarray()
        self.images[key] = np.rot90(image, quarter_turns) if quarter_turns else image


_REFORMATTERS = threading.local()


def _reformatters() -> tuple[VideoReformatter, VideoReformatter]:
    """This thread's two: building one costs more than using it, and the next video often has the same size."""
    if not hasattr(_REFORMATTERS, "both"):
        _REFORMATTERS.both = VideoReformatter(), VideoReformatter()
    return _REFORMATTERS.both


def _display_order(packets: Sequence[av.Packet], pts: Sequence[int | None]) -> list[int] | None:
    """Packet numbers in display order; None if time stamps (`pts`, of every packet) are missing or not unique."""
    shown = [i for i, packet in enumerate(packets) if not packet.is_discard]  # an edit list hides packets
    if not shown or None in pts or len({pts[i] for i in shown}) != len(shown):
        return None
    return sorted(shown, key=pts.__getitem__)


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
    pts: Sequence[int],
    targets: set[int],
    take: _Converter,
    deadline: Deadline,
) -> None:
    """Decodes the targets (packet numbers) into `take`, by time stamp; the decoder may withhold some."""
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
    deadline: Deadline,
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
        raise VideoError("no_decoder", reason(error)) from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError("damaged", reason(error)) from error
    for frame in frames:
        # Shown before the key picture that started the run: incomplete by construction, and never a target.
        leading = first_pts is not None and frame.pts is not None and frame.pts < first_pts
        if frame.is_corrupt and not leading:
            raise VideoError("damaged", "the decoder marked a frame as corrupt")
        yield frame
