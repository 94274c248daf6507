"""Decoding: the right frames however a file is built, and a named reason however it is broken."""

import pickle

import av
import numpy as np
import pytest

from snp_jax.data.decode import KINDS, Limits, VideoError, decode_clip, plan_runs, probe
from snp_jax.data.sampling import SegmentSampling, middle_frames, random_offsets

SIZE = (32, 48)

FORMATS = {  # file name, codec, frames per second, encoder options
    "h264_long_groups": ("v.mp4", "libx264", 10, {"g": "250", "bf": "3"}),
    "h264_short_groups": ("v.mp4", "libx264", 10, {"g": "12", "bf": "3", "sc_threshold": "0"}),
    "h264_open_groups": ("v.mkv", "libx264", 10, {"x264-params": "open-gop=1:keyint=10:bframes=3"}),
    "h264_intra_refresh": ("v.mp4", "libx264", 10, {"x264-params": "intra-refresh=1:keyint=10"}),
    "h264_transport_stream": ("v.ts", "libx264", 25, {"g": "12"}),
    "hevc_open_groups": ("v.mp4", "libx265", 10, {"x265-params": "keyint=10:log-level=none"}),
    "vp9": ("v.webm", "libvpx-vp9", 10, {"g": "12", "cpu-used": "8"}),
    "mpeg4_avi": ("v.avi", "mpeg4", 10, {"g": "12"}),
    "mpeg4_avi_b_frames": ("v.avi", "mpeg4", 10, {"g": "12", "bf": "2"}),
    "mpeg2_b_frames": ("v.mpg", "mpeg2video", 25, {"g": "12", "bf": "2"}),
}


def numbers(data, choose, read_number, **kwargs):
    return [read_number(frame) for frame in decode_clip(data, choose, SIZE, **kwargs)]


def kind_of(data, **kwargs):
    with pytest.raises(VideoError) as caught:
        decode_clip(data, middle_frames(4).indices, SIZE, **kwargs)
    assert caught.value.kind in KINDS
    return caught.value.kind


@pytest.mark.parametrize("name", FORMATS)
def test_exact_frames(name, make_video, read_number, tmp_path):
    file, codec, rate, options = FORMATS[name]
    data = make_video(tmp_path / file, 60, codec=codec, rate=rate, options=options).read_bytes()
    assert numbers(data, np.arange, read_number) == list(range(60))  # all of them
    for seed in range(4):
        expected = SegmentSampling(random_offsets(np.random.default_rng(seed), 6)).indices(60).tolist()
        assert numbers(data, SegmentSampling(random_offsets(np.random.default_rng(seed), 6)).indices, read_number) == expected
    assert numbers(data, lambda n: np.array([41, 5, 5, 59]), read_number) == [
        41,
        5,
        5,
        59,
    ]  # any order, repeats


def test_pixels_equal_sequential_decoding(make_video, tmp_path):
    path = make_video(tmp_path / "v.mp4", 40, size=(64, 96), options={"g": "12"})
    with av.open(str(path)) as container:
        sequential = list(container.decode(video=0))
    chosen = [3, 11, 12, 30, 39]
    shown = decode_clip(path.read_bytes(), lambda n: np.array(chosen), SIZE)
    same_scaler = [sequential[i].reformat(48, 32, "rgba", interpolation="BILINEAR") for i in chosen]
    np.testing.assert_array_equal(shown, [frame.to_ndarray(format="rgb24") for frame in same_scaler])
    # The scaler's fast path rounds otherwise than its plain one.
    plain = [sequential[i].to_ndarray(width=48, height=32, format="rgb24", interpolation="BILINEAR") for i in chosen]
    assert np.abs(shown.astype(int) - plain).max() <= 4
    unscaled = decode_clip(path.read_bytes(), lambda n: np.array(chosen), (64, 96))
    np.testing.assert_array_equal(unscaled, [sequential[i].to_ndarray(format="rgb24") for i in chosen])


def test_variable_frame_rate_is_sampled_by_frames_not_by_time(make_video, read_number, tmp_path):
    stamps = [0, 1, 2, 3, 40, 41, 42, 90]
    data = make_video(tmp_path / "v.mp4", 8, stamps=stamps).read_bytes()
    assert numbers(data, np.arange, read_number) == list(range(8))


@pytest.mark.parametrize(
    "start, end, expected",
    [
        (None, None, range(0, 30)),
        (1.0, None, range(10, 30)),
        (None, 0.5, range(0, 5)),
        (1.0, 2.0, range(10, 20)),  # the frame that appears at 2.0 s is out
        (1.05, 1.25, range(10, 13)),  # the frame on screen at 1.05 s appeared at 1.0 s
        (1.01, 1.02, range(10, 11)),  # shorter than a frame
        (2.0, 99.0, range(20, 30)),  # an end beyond the end
    ],
)
def test_spans(start, end, expected, make_video, read_number, tmp_path):
    data = make_video(tmp_path / "v.mp4", 30, rate=10).read_bytes()
    assert numbers(data, np.arange, read_number, start=start, end=end) == list(expected)


def test_spans_count_from_the_first_frame(make_video, read_number, tmp_path):
    data = make_video(tmp_path / "v.ts", 50, rate=25, stamps=range(100, 150)).read_bytes()
    assert numbers(data, np.arange, read_number, start=1.0) == list(range(25, 50))


def test_a_span_after_the_end_has_no_frames(make_video, tmp_path):
    data = make_video(tmp_path / "v.mp4", 30, rate=10).read_bytes()
    assert kind_of(data, start=3.5) == "no_frames"


def test_videos_shorter_than_the_sample_repeat_frames(make_video, read_number, tmp_path):
    data = make_video(tmp_path / "v.mp4", 1).read_bytes()
    assert numbers(data, middle_frames(4).indices, read_number) == [0] * 4


def test_rotation_is_applied(make_video, tmp_path):
    """A phone's "turn by 90 degrees clockwise" is a matrix in the track header; the test writes it there."""
    path = make_video(tmp_path / "v.mp4", 5, size=(64, 64))
    data = bytearray(path.read_bytes())
    straight = decode_clip(bytes(data), middle_frames(1).indices, (32, 32))
    matrix = data.index(b"tkhd") + 4 + 40
    one = (1 << 16).to_bytes(4, "big")
    minus_one = (-(1 << 16)).to_bytes(4, "big", signed=True)
    zero = bytes(4)
    data[matrix : matrix + 20] = zero + one + zero + minus_one + zero  # a, b, u, c, d
    turned = decode_clip(bytes(data), middle_frames(1).indices, (32, 32))
    np.testing.assert_array_equal(turned[0], np.rot90(straight[0], -1))
    assert decode_clip(bytes(data), middle_frames(1).indices, (20, 40)).shape == (1, 20, 40, 3)


def test_nothing_or_nonsense_does_not_open():
    assert kind_of(b"") == "open"
    assert kind_of(b"<html>not found</html>" * 50) == "open"
    assert kind_of(bytes(5000)) == "open"


def test_sound_without_picture(make_sound, tmp_path):
    assert kind_of(make_sound(tmp_path / "s.mp4").read_bytes()) == "no_video_stream"


def test_cut_file_without_index_does_not_open(make_video, tmp_path):
    data = make_video(tmp_path / "v.mp4", 60).read_bytes()
    assert kind_of(data[: data.index(b"moov")]) == "open"


def test_cut_file_with_index_first_gives_the_frames_it_has(make_video, read_number, tmp_path):
    path = make_video(tmp_path / "v.mkv", 60, size=(128, 128), options={"g": "12"})
    data = path.read_bytes()
    shown = numbers(data[: len(data) * 6 // 10], np.arange, read_number)
    assert 10 < len(shown) < 60
    assert shown[:-3] == list(range(len(shown) - 3))
    assert sorted(set(shown)) == shown  # at the cut, pictures may lack that others of their group refer to


def test_damage_is_found(make_video, tmp_path):
    data = bytearray(make_video(tmp_path / "v.mp4", 60, size=(128, 128), options={"g": "250"}).read_bytes())
    start = data.index(b"mdat") + 1200
    rng = np.random.default_rng(0)
    for i in rng.integers(start, start + 2000, 200):
        data[i] ^= 0xFF
    assert kind_of(bytes(data)) in ("damaged", "no_frames")


def test_limits(make_video, tmp_path):
    data = make_video(tmp_path / "v.mp4", 60).read_bytes()
    assert kind_of(data, limits=Limits(budget_s=0.0)) == "timeout"
    assert kind_of(data, limits=Limits(max_pixels=1000)) == "too_large"


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(VideoError("damaged", "half of it")))
    assert (error.kind, error.detail, str(error)) == ("damaged", "half of it", "damaged: half of it")


def test_plan_jumps_between_short_groups_and_goes_on_in_long_ones():
    pts = list(range(40))
    assert plan_runs(pts, [0, 10, 20, 30], [3, 25, 27, 31]) == [(0, 3), (20, 27), (30, 31)]
    assert plan_runs(pts, [0], [3, 25, 31]) == [(0, 31)]
    # Going on from packet 9 is no dearer than starting again at 10, but a new start needs no packet in
    # between.
    assert plan_runs(pts, [0, 10], [9, 12]) == [(0, 9), (10, 12)]


def test_plan_starts_one_group_earlier_for_pictures_shown_before_their_key():
    # Decoding order K0 P4 b1 | K8 b6 b7 P12: b6 and b7 refer to P4 as well.
    pts = [0, 4, 1, 8, 6, 7, 12]
    assert plan_runs(pts, [0, 3], [4]) == [(0, 4)]
    assert plan_runs(pts, [0, 3], [6]) == [(3, 6)]


def test_probe(make_video, tmp_path):
    seen = probe(make_video(tmp_path / "v.mp4", 30, rate=10, size=(64, 96)).read_bytes())
    assert (seen.frames, seen.width, seen.height, seen.image) == (30, 96, 64, False)
    assert seen.seconds == pytest.approx(3.0, abs=0.11)
    with pytest.raises(VideoError, match="open: the file is empty"):
        probe(b"")
