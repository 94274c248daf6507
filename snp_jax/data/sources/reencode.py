"""Optional at preparation: videos as small H.264 files in which every wanted frame is near a key frame.

Short side 256 pixels, a key frame every 12, no sound, the original time stamps, rotation applied. What that costs and gains:
docs/data.md. The same input gives the same bytes.
"""

from __future__ import annotations

import io
from fractions import Fraction

import av
from av.video.reformatter import Interpolation, VideoReformatter

from snp_jax.data import decode

SHORT_SIDE = 256
KEY_FRAME_EVERY = 12
SETTINGS = f"h264 short side {SHORT_SIDE} gop {KEY_FRAME_EVERY} crf 23 veryfast"
_OPTIONS = {
    "preset": "veryfast",
    "crf": "23",
    "g": str(KEY_FRAME_EVERY),
    "threads": "1",
    "x264-params": "cpu-independent=1",  # else the same frames may give other bytes on another call
}
_CLOCK = Fraction(1, 90_000)


def reencode(data: bytes, limits: decode.Limits) -> bytes:
    """The video as short-GOP MP4.

    Raises:
        VideoError: as `decode.frames`.
    """
    buffer = io.BytesIO()
    convert = VideoReformatter()
    stream = None
    with av.open(buffer, "w", format="mp4") as container:
        last = -1
        for seconds, frame in decode.frames(data, limits):
            if stream is None:
                stream = container.add_stream("libx264", options=_OPTIONS)
                stream.width, stream.height = target_size(frame.width, frame.height)
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = _CLOCK
                stream.codec_context.thread_count = 1
            scaled = convert.reformat(
                frame, width=stream.width, height=stream.height, format="yuv420p",
                interpolation=Interpolation.AREA, threads=1,
            )  # fmt: skip
            last = max(round(seconds / _CLOCK), last + 1)
            scaled.pts, scaled.time_base = last, _CLOCK
            scaled.pict_type = av.video.frame.PictureType.NONE  # key frames are the encoder's choice
            container.mux(stream.encode(scaled))
        if stream is not None:
            container.mux(stream.encode(None))
    return buffer.getvalue()


def target_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) with a short side of at most `SHORT_SIDE`, both even, never enlarged by more than rounding."""
    scale = min(1.0, SHORT_SIDE / min(width, height))
    return tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))
