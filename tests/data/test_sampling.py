"""Segment sampling against hand-worked cases."""

import numpy as np
import pytest

from snp_jax.data.sampling import SegmentSampling, middle_frames, random_frames


def test_middle_of_every_segment():
    # 10 frames, 4 segments of 2.5 frames: middles at 1.25, 3.75, 6.25, 8.75.
    assert middle_frames(4).indices(10).tolist() == [1, 3, 6, 8]
    assert middle_frames(1).indices(7).tolist() == [3]


def test_every_frame_of_a_segment_can_be_drawn_and_no_other():
    rng = np.random.default_rng(0)
    drawn = np.array([random_frames(rng, 4).indices(12) for _ in range(500)])
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
    assert random_frames(rng, 8).indices(4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert random_frames(rng, 5).indices(1).tolist() == [0] * 5


@pytest.mark.parametrize("offset, expected", [(0.0, [0, 3, 6, 9, 12, 15]), (0.99, [2, 5, 8, 11, 14, 17])])
def test_several_frames_per_clip_are_evenly_spaced_within_their_segment(offset, expected):
    # 18 frames, 2 segments of 9 frames, 3 frames each: 3 apart.
    assert SegmentSampling((offset, offset), frames_per_clip=3).indices(18).tolist() == expected


def test_asking_again_with_another_length_does_not_draw_again():
    sampling = random_frames(np.random.default_rng(3), 4)
    assert sampling.indices(100).tolist() == sampling.indices(100).tolist()
    assert np.abs(sampling.indices(200) / 2 - sampling.indices(100)).max() <= 1
