"""Which frames of a video a model sees: N segments of equal length, one clip of F frames from each.

Indices only; decoding is in `decode`. Source: method.md section 3. `ExclusiveSegments` is how the authors' release cuts them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

MIDDLE = 0.5


@dataclasses.dataclass(frozen=True)
class SegmentSampling:
    """A choice of frames made before the number of frames is known.

    `offsets` (float `[N]`, each in [0, 1)) says where inside its segment clip i lies. The draw is separate
    from the frame count so that a decoder which finds fewer frames than the container promised asks again
    without drawing again.

    Attributes:
        offsets: one position per clip.
        frames_per_clip: F.
    """

    offsets: tuple[float, ...]
    frames_per_clip: int = 1

    def indices(self, num_frames: int) -> np.ndarray:
        """Indices into `num_frames` > 0 frames in display order, int64 `[N * F]`, never decreasing.

        Segment i covers [i n/N, (i+1) n/N); its F frames are evenly spaced over it and shifted together by
        the offset. Every frame of a segment can be drawn, the last one included (method.md section 7 item
        15). Fewer frames than asked for repeat uniformly, whatever the offsets.
        """
        num_clips, per_clip = len(self.offsets), self.frames_per_clip
        offsets = np.asarray(self.offsets)
        if num_frames < num_clips * per_clip:
            offsets = np.full(num_clips, MIDDLE)
        parts = np.arange(num_clips * per_clip).reshape(num_clips, per_clip) + offsets[:, None]  # [N, F]
        frames = np.floor(parts * num_frames / (num_clips * per_clip)).astype(np.int64)
        return np.minimum(frames, num_frames - 1).reshape(-1)  # rounding may reach num_frames itself


@dataclasses.dataclass(frozen=True)
class ExclusiveSegments:
    """`SegmentSampling` with the release's segments, one frame from each (method.md section 7 item 15).

    Bounds are rounded down to whole frames, and the frame at a segment's end counts as outside: it is never drawn, and the
    middle of an even number of frames is the earlier one.

    Attributes:
        offsets: one position per clip, each in [0, 1).
    """

    offsets: tuple[float, ...]

    def indices(self, num_frames: int) -> np.ndarray:
        """Indices into `num_frames` > 0 frames, int64 `[N]`, never decreasing.

        Fewer frames than clips are spread evenly from the first to the last, whatever the offsets.
        """
        num_clips = len(self.offsets)
        if num_frames < num_clips:
            return np.round(np.linspace(0, num_frames - 1, num_clips)).astype(np.int64)
        bounds = np.linspace(0, num_frames, num_clips + 1).astype(np.int64)
        room = np.maximum(np.diff(bounds) - 1, 1)  # a segment of one frame has no other
        return bounds[:-1] + np.floor(np.asarray(self.offsets) * room).astype(np.int64)


def middle_offsets(num_clips: int) -> tuple[float, ...]:
    """The positions of evaluation: the middle of every segment."""
    return (MIDDLE,) * num_clips


def random_offsets(rng: np.random.Generator, num_clips: int) -> tuple[float, ...]:
    """The positions of training: a random one in every segment, drawn with `rng`."""
    return tuple(rng.random(num_clips).tolist())


def middle_frames(num_clips: int, frames_per_clip: int = 1) -> SegmentSampling:
    """The middle of every segment."""
    return SegmentSampling(middle_offsets(num_clips), frames_per_clip)
