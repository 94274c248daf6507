"""Optional at preparation: videos as small files in which every wanted frame is near a key frame.

No sound, the original time stamps, rotation applied. What each choice costs and gains: docs/data.md. The same input gives the
same bytes.
"""

from __future__ import annotations

import dataclasses
import io
from fractions import Fraction

import av
from av.video.reformatter import Interpolation, VideoReformatter

from snp_jax.data import decode

CODECS = ("h264", "mjpeg")
_DEFAULT_KEY_EVERY = {"h264": 12, "mjpeg": 1}
_MAX_SHORT_SIDE = 4096


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How videos are stored.

    Attributes:
        codec: "h264" (in MP4; few bytes) or "mjpeg" (in Matroska; every frame a JPEG: opens and decodes fastest, more bytes).
        short_side: pixels, at most; no video is enlarged.
        key_every: a key frame at least every so many frames, 1 = each; None: 12 for H.264. MJPEG has nothing else.

    Raises:
        ValueError: any of them is out of its range.
    """

    codec: str = "h264"
    short_side: int = 256
    key_every: int | None = None

    def __post_init__(self):
        if self.codec not in CODECS:
            raise ValueError(f"the codec must be one of {', '.join(CODECS)}, found {self.codec}")
        if not 16 <= self.short_side <= _MAX_SHORT_SIDE:
            raise ValueError(f"the short side must be 16 to {_MAX_SHORT_SIDE} pixels, found {self.short_side}")
        if self.key_every is None:
            object.__setattr__(self, "key_every", _DEFAULT_KEY_EVERY[self.codec])
        if self.key_every < 1:
            raise ValueError(f"there must be a key frame at least every 1 frames, found {self.key_every}")
        if self.codec == "mjpeg" and self.key_every != 1:
            raise ValueError(f"every frame of mjpeg is a key frame, found one every {self.key_every}")

    @property
    def settings(self) -> str:
        """All that decides the bytes, for the fingerprint of a dataset."""
        quality = {"h264": "crf 23 veryfast", "mjpeg": "q 3 4:2:0"}[self.codec]
        return f"{self.codec} short side {self.short_side} gop {self.key_every} {quality}"

    def target_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) with a short side of at most `short_side`, both even, never enlarged by more than rounding."""
        scale = min(1.0, self.short_side / min(width, height))
        return tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))


def reencode(data: bytes, encoding: Encoding, limits: decode.Limits) -> bytes:
    """The video as a small file.

    Raises:
        VideoError: as `decode.frames`.
    """
    buffer = io.BytesIO()
    convert = VideoReformatter()
    stream = None
    with av.open(buffer, "w", format={"h264": "mp4", "mjpeg": "matroska"}[encoding.codec], options=_CONTAINER) as container:
        last = -1
        for seconds, frame in decode.frames(data, limits):
            if stream is None:
                stream = _add_stream(container, encoding, frame)
            clock = stream.codec_context.time_base
            scaled = convert.reformat(
                frame, width=stream.width, height=stream.height, format=stream.pix_fmt,
                interpolation=Interpolation.AREA, threads=1,
            )  # fmt: skip
            last = max(round(seconds / clock), last + 1)
            scaled.pts, scaled.time_base = last, clock
            scaled.pict_type = av.video.frame.PictureType.NONE  # key frames are the encoder's choice
            container.mux(stream.encode(scaled))
        if stream is not None:
            container.mux(stream.encode(None))
    return buffer.getvalue()


_CONTAINER = {"fflags": "+bitexact"}  # no random ids and no version of FFmpeg in the file


def _add_stream(container: av.container.OutputContainer, encoding: Encoding, first: av.VideoFrame) -> av.VideoStream:
    if encoding.codec == "h264":
        options = {
            "preset": "veryfast",
            "crf": "23",
            "g": str(encoding.key_every),
            "x264-params": "cpu-independent=1",  # else the same frames may give other bytes on another call
        }
        stream = container.add_stream("libx264", options={**options, "threads": "1"})
        stream.pix_fmt, clock = "yuv420p", Fraction(1, 90_000)
    else:
        # A fixed quantiser; the bit rate only must not stand in its way.
        stream = container.add_stream("mjpeg", options={"qmin": "3", "qmax": "3", "b": "1G", "threads": "1"})
        stream.pix_fmt, clock = "yuvj420p", Fraction(1, 1000)  # Matroska's own clock
    stream.width, stream.height = encoding.target_size(first.width, first.height)
    stream.codec_context.time_base = clock
    stream.codec_context.thread_count = 1
    return stream
