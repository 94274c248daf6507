"""Re-encoding: the same frames at the same times, small, upright, with near key frames; the same bytes each time."""

import io

import av
import numpy as np
import pytest

from snp_jax.data import decode
from snp_jax.data.decode import Limits, decode_clip
from snp_jax.data.sources.reencode import Encoding, reencode

ENCODINGS = [Encoding(), Encoding("h264", 32, 1), Encoding("mjpeg", 32)]


def times(data):
    return [seconds for seconds, _ in decode.frames(data)]


def key_frames(data):
    """For every frame whether it is a key frame, and the number of streams."""
    with av.open(io.BytesIO(data)) as container:
        return [p.is_keyframe for p in container.demux(video=0) if p.size], len(container.streams)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.settings)
def test_the_same_frames_at_the_same_times(encoding, make_video, read_number, tmp_path):
    stamps = [0, 1, 2, 3, 20, 21, 22, 50, *range(60, 85)]
    data = make_video(tmp_path / "v.mp4", 33, stamps=stamps, options={"g": "250", "bf": "3"}).read_bytes()
    small = reencode(data, encoding, Limits())
    assert [read_number(frame) for frame in decode_clip(small, np.arange, (32, 48))] == list(range(33))
    assert times(small) == pytest.approx([stamp / 10 for stamp in stamps], abs=1e-3)
    assert reencode(data, encoding, Limits()) == small


@pytest.mark.parametrize("every", [12, 3])
def test_key_frames_are_near_and_sound_is_gone(every, make_video, tmp_path):
    data = make_video(tmp_path / "v.mp4", 60, options={"g": "250"}).read_bytes()
    keys, num_streams = key_frames(reencode(data, Encoding(key_every=every), Limits()))
    assert max(np.diff([*np.flatnonzero(keys), 60])) == every
    assert num_streams == 1


@pytest.mark.parametrize("encoding", ENCODINGS[1:], ids=lambda encoding: encoding.settings)
def test_every_frame_can_be_a_key_frame(encoding, make_video, tmp_path):
    data = make_video(tmp_path / "v.mp4", 20, options={"g": "250"}).read_bytes()
    small = reencode(data, encoding, Limits())
    assert key_frames(small) == ([True] * 20, 1)
    assert (decode.probe(small).width, decode.probe(small).height) == (32, 32)


def test_colours_survive_mjpeg(tmp_path):
    """Its range of values is another than H.264's."""
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    data = (tmp_path / "v.mkv").read_bytes()
    before, after = (
        decode_clip(x, np.arange, (64, 64)).astype(int) for x in (data, reencode(data, Encoding("mjpeg"), Limits()))
    )
    assert abs(before - after).mean() < 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"codec": "av1"}, "h264, mjpeg, found av1"),
        ({"short_side": 8}, "16 to 4096 pixels, found 8"),
        ({"key_every": 0}, "found 0"),
        ({"codec": "mjpeg", "key_every": 12}, "found one every 12"),
    ],
)
def test_an_encoding_that_cannot_be(values, words):
    with pytest.raises(ValueError, match=words):
        Encoding(**values)


def test_the_short_side_is_256_at_most(make_video, tmp_path):
    target_size = Encoding().target_size
    assert target_size(1920, 1080) == (456, 256)
    assert target_size(720, 1280) == (256, 456)
    assert target_size(320, 240) == (320, 240)
    assert target_size(321, 33) == (320, 32) and target_size(1, 1) == (2, 2)
    large = make_video(tmp_path / "v.mp4", 3, size=(512, 640)).read_bytes()
    seen = decode.probe(reencode(large, Encoding(), Limits()))
    assert (seen.width, seen.height) == (320, 256)


def test_rotation_is_applied_once(make_video, tmp_path):
    data = bytearray(make_video(tmp_path / "v.mp4", 5, size=(64, 128)).read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one, minus_one = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True)
    data[matrix : matrix + 20] = bytes(4) + one + bytes(4) + minus_one + bytes(4)  # 90 degrees clockwise
    small = reencode(bytes(data), Encoding(), Limits())
    assert (decode.probe(small).width, decode.probe(small).height) == (64, 128)
    before, after = (decode_clip(bytes(x), np.arange, (64, 32)).astype(int) for x in (data, small))
    assert abs(before - after).mean() < 4


def test_prepared_with_reencoding(make_video, make_image, write_json, tmp_path, store):
    """Images and broken files are stored as they are."""
    make_video(tmp_path / "data" / "good.mp4", 30, options={"g": "250"})
    (tmp_path / "data" / "bad.mp4").write_bytes(b"<html>" * 9)
    make_image(tmp_path / "data" / "i.jpg")
    names = ("good.mp4", "bad.mp4", "i.jpg")
    write_json(tmp_path / "data" / "train.jsonl", [{"clip_name": name, "caption": "x"} for name in names])
    stored = store("jsonl/retrieval", tmp_path / "data", reencode=Encoding())
    contents = {name: record.video for name, record in stored.records["train"].items()}
    assert contents["good"] == reencode((tmp_path / "data" / "good.mp4").read_bytes(), Encoding(), Limits())
    assert contents["bad"] == b"<html>" * 9 and contents["i"] == (tmp_path / "data" / "i.jpg").read_bytes()
    assert stored.numbers("train") == (3, 3, 0, 0, 0, 1)
