"""H.264 for the toy corpus: RGB frames to the bytes of an .mp4 file. Decoding lives in the input pipeline,
not here.
"""

from __future__ import annotations

import io

import av
import numpy as np
from av.video.reformatter import VideoReformatter


def encode_mp4(frames: np.ndarray, fps: int, crf: int) -> bytes:
    """Encodes uint8 `[T, H, W, 3]` RGB (H, W even) as yuv420p; `crf` 20 is nearly clean, 30 visibly damaged.

    The same frames give the same bytes (per libx264): one thread, and "cpu-independent", without which
    its look-ahead varies from call to call for widths that are no multiple of 32.
    """
    height, width = frames.shape[1:3]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"preset": "veryfast", "crf": str(crf), "threads": "1", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        convert = VideoReformatter()
        for i, pixels in enumerate(frames):
            frame = convert.reformat(av.VideoFrame.from_ndarray(pixels, format="rgb24"), format="yuv420p", threads=1)
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
