"""Segment sampling against hand-worked cases."""

import numpy as np
import pytest

from snp_jax.data.sampling import (
    ExclusiveSegments,
    SegmentSampling,
    middle_frames,
    middle_offsets,
    random_offsets,
)


def test_middle_of_every_segment():
    # 10 frames, 4 segments of 2.5 frames: middles at 1.25, 3.75, 6.25, 8.75.
    assert middle_frames(4).indices(10).tolist() == [1, 3, 6, 8]
    assert middle_frames(1).indices(7).tolist() == [3]


def test_every_frame_of_a_segment_can_be_drawn_and_no_other():
    rng = np.random.default_rng(0)
    drawn = np.array([SegmentSampling(random_offsets(rng, 4)).indices(12) for _ in range(500)])
    for segment in range(4):
        assert sorted(set(drawn[:, segment])) == [3 * segment, 3 * segment + 1, 3 * segment + 2]
    counts = np.bincount(drawn.reshape(-1), minlength=12)
    assert counts.min() > 500 / 3 * 0.75  # the last frame as often as the others


def test_the_largest_offset_stays_inside_the_video():
    largest = float(np.nextafter(1, 0))
    for n in (1, 5, 16, 1000, 99991):
        indices = SegmentSampling((largest,) * 16).indices(n)
        assert indices.max() == n - 1 or n < 16


def test_fewer_frames_than_clips_repeat_uniformly_in_training_too():
    rng = np.random.default_rng(0)
    assert SegmentSampling(random_offsets(rng, 8)).indices(4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert SegmentSampling(random_offsets(rng, 5)).indices(1).tolist() == [0] * 5


@pytest.mark.parametrize("offset, expected", [(0.0, [0, 3, 6, 9, 12, 15]), (0.99, [2, 5, 8, 11, 14, 17])])
def test_several_frames_per_clip_are_evenly_spaced_within_their_segment(offset, expected):
    # 18 frames, 2 segments of 9 frames, 3 frames each: 3 apart.
    assert SegmentSampling((offset, offset), frames_per_clip=3).indices(18).tolist() == expected


def test_asking_again_with_another_length_does_not_draw_again():
    sampling = SegmentSampling(random_offsets(np.random.default_rng(3), 4))
    assert sampling.indices(100).tolist() == sampling.indices(100).tolist()
    assert np.abs(sampling.indices(200) / 2 - sampling.indices(100)).max() <= 1


def test_middles_of_the_release_s_segments():
    def middles(num_frames, num_clips):
        return ExclusiveSegments(middle_offsets(num_clips)).indices(num_frames).tolist()

    # 17 frames, 2 segments: 0..7 and 8..16, whose middles are 3 (of 3 and 4) and 12.
    assert middles(17, 2) == [3, 12]
    assert middles(16, 4) == [1, 5, 9, 13] and middle_frames(4).indices(16).tolist() == [2, 6, 10, 14]
    assert middles(4, 1) == [1]
    assert middles(3, 4) == [0, 1, 1, 2] and middles(1, 3) == [0, 0, 0]  # fewer frames than clips: spread evenly


def test_every_frame_of_a_segment_of_the_release_can_be_drawn_but_the_last():
    rng = np.random.default_rng(0)
    drawn = np.array([ExclusiveSegments(random_offsets(rng, 4)).indices(15) for _ in range(500)])
    # Bounds 0, 3.75, 7.5, 11.25, 15 are rounded down: 0..2, 3..6, 7..10 and 11..14.
    assert [sorted(set(drawn[:, i])) for i in range(4)] == [[0, 1], [3, 4, 5], [7, 8, 9], [11, 12, 13]]
    counts = np.bincount(drawn[:, 1])[3:]
    assert counts.min() > 500 / 3 * 0.75
    alone = np.array([ExclusiveSegments(random_offsets(rng, 4)).indices(4) for _ in range(20)])
    assert (alone == np.arange(4)).all()  # the only frame of a segment is drawn


def test_the_largest_offset_stays_before_the_last_frame_of_an_exclusive_segment():
    largest = float(np.nextafter(1, 0))
    for n in (32, 1000, 99991):
        assert ExclusiveSegments((largest,) * 16).indices(n).max() == n - 2
