"""Re-encoding: the same frames at the same times, small, upright, with near key frames; the same bytes each time."""

import io

import av
import numpy as np
import pytest

from snp_jax.data import decode
from snp_jax.data.decode import Limits, decode_clip
from snp_jax.data.sources.reencode import KEY_FRAME_EVERY, reencode, target_size


def times(data):
    return [seconds for seconds, _ in decode.frames(data)]


def test_the_same_frames_at_the_same_times(make_video, read_number, tmp_path):
    stamps = [0, 1, 2, 3, 20, 21, 22, 50, *range(60, 85)]
    data = make_video(tmp_path / "v.mp4", 33, stamps=stamps, options={"g": "250", "bf": "3"}).read_bytes()
    small = reencode(data, Limits())
    assert [read_number(frame) for frame in decode_clip(small, np.arange, (32, 48))] == list(range(33))
    assert times(small) == pytest.approx([stamp / 10 for stamp in stamps], abs=1e-3)
    assert reencode(data, Limits()) == small


def test_key_frames_are_near_and_sound_is_gone(make_video, tmp_path):
    small = reencode(make_video(tmp_path / "v.mp4", 60, options={"g": "250"}).read_bytes(), Limits())
    with av.open(io.BytesIO(small)) as container:
        assert len(container.streams) == 1
        keys = [i for i, packet in enumerate(p for p in container.demux(video=0) if p.size) if packet.is_keyframe]
    assert max(np.diff([*keys, 60])) <= KEY_FRAME_EVERY


def test_the_short_side_is_256_at_most(make_video, tmp_path):
    assert target_size(1920, 1080) == (456, 256)
    assert target_size(720, 1280) == (256, 456)
    assert target_size(320, 240) == (320, 240)
    assert target_size(321, 33) == (320, 32) and target_size(1, 1) == (2, 2)
    large = make_video(tmp_path / "v.mp4", 3, size=(512, 640)).read_bytes()
    seen = decode.probe(reencode(large, Limits()))
    assert (seen.width, seen.height) == (320, 256)


def test_rotation_is_applied_once(make_video, tmp_path):
    data = bytearray(make_video(tmp_path / "v.mp4", 5, size=(64, 128)).read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one, minus_one = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True)
    data[matrix : matrix + 20] = bytes(4) + one + bytes(4) + minus_one + bytes(4)  # 90 degrees clockwise
    small = reencode(bytes(data), Limits())
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
    stored = store("jsonl/retrieval", tmp_path / "data", reencode=True)
    contents = {name: record.video for name, record in stored.records["train"].items()}
    assert contents["good"] == reencode((tmp_path / "data" / "good.mp4").read_bytes(), Limits())
    assert contents["bad"] == b"<html>" * 9 and contents["i"] == (tmp_path / "data" / "i.jpg").read_bytes()
    assert stored.numbers("train") == (3, 3, 0, 0, 0, 1)
