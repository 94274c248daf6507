"""Decoding, file kind by file kind: further codecs, images, edit lists; and what absurd files may cost."""

import io
import resource
import struct
import time
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from snp_jax.data.decode import Limits, VideoError, decode_clip, frames, probe
from snp_jax.data.sampling import SegmentSampling, middle_frames, random_offsets

SIZE = (32, 48)


def numbers(data, choose, read_number, **kwargs):
    return [read_number(frame) for frame in decode_clip(data, choose, SIZE, **kwargs)]


def kind_of(data, **kwargs):
    with pytest.raises(VideoError) as caught:
        decode_clip(data, middle_frames(4).indices, SIZE, **kwargs)
    return caught.value.kind


def picture(kind, size=(48, 64), colour=(200, 30, 30), **options):
    buffer = io.BytesIO()
    Image.new("RGB", (size[1], size[0]), colour).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "file, codec, options",
    [
        ("v.mp4", "libsvtav1", {"preset": "12", "svtav1-params": "keyint=12"}),
        ("v.webm", "libsvtav1", {"preset": "12", "svtav1-params": "keyint=12"}),
        ("v.webm", "libvpx", {"g": "12", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "10"}),
        ("v.mp4", "libx265", {"x265-params": "keyint=12:open-gop=0:log-level=none"}),
        ("v.wmv", "wmv2", {"g": "12"}),
        ("v.3gp", "mpeg4", {"g": "12"}),
    ],
)
def test_codecs(file, codec, options, make_video, read_number, tmp_path):
    data = make_video(tmp_path / file, 60, codec=codec, options=options).read_bytes()
    assert numbers(data, np.arange, read_number) == list(range(60))
    for seed in range(4):
        expected = SegmentSampling(random_offsets(np.random.default_rng(seed), 6)).indices(60).tolist()
        assert numbers(data, SegmentSampling(random_offsets(np.random.default_rng(seed), 6)).indices, read_number) == expected


def test_xvid(make_video, read_number, tmp_path):
    """Named as the files of MSVD are."""
    data = make_video(tmp_path / "v.avi", 60, codec="mpeg4", options={"g": "12", "vtag": "XVID"}).read_bytes()
    data = data.replace(b"FMP4", b"XVID")
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "XVID"
    assert numbers(data, SegmentSampling(random_offsets(np.random.default_rng(0), 6)).indices, read_number) == (
        SegmentSampling(random_offsets(np.random.default_rng(0), 6)).indices(60).tolist()
    )


def test_animated_gif():
    """Each frame of it stores only what has changed."""
    shown = []
    canvas = Image.new("RGB", (64, 32))
    for k in range(12):
        canvas = canvas.copy()
        canvas.paste((20 * k, 255 - 20 * k, 40), (5 * k, 0, 5 * k + 5, 32))
        shown.append(canvas)
    buffer = io.BytesIO()
    shown[0].save(buffer, "GIF", save_all=True, append_images=shown[1:], duration=[100, 50] * 6)
    everything = decode_clip(buffer.getvalue(), np.arange, (32, 64))
    for frame, image in zip(everything, shown, strict=True):
        assert abs(frame.astype(int) - np.asarray(image)).max() < 24  # 256 colours
    chosen = np.array([11, 3, 7])
    np.testing.assert_array_equal(decode_clip(buffer.getvalue(), lambda n: chosen, (32, 64)), everything[chosen])
    assert (probe(buffer.getvalue()).frames, probe(buffer.getvalue()).image) == (12, False)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_images_are_videos_of_one_frame(kind):
    data = picture(kind)
    clip = decode_clip(data, middle_frames(4).indices, SIZE)
    assert clip.shape == (4, *SIZE, 3) and abs(clip.astype(int) - (200, 30, 30)).max() < 6
    seen = probe(data)
    assert (seen.frames, seen.width, seen.height, seen.seconds) == (1, 64, 48, 0 if kind != "GIF" else seen.seconds)
    assert seen.image == (kind != "GIF")


def test_grey_transparent_and_progressive_images():
    grey, clear = io.BytesIO(), io.BytesIO()
    Image.new("L", (63, 47), 77).save(grey, "JPEG", progressive=True)
    Image.new("RGBA", (64, 48), (200, 30, 30, 128)).save(clear, "PNG")
    assert abs(decode_clip(grey.getvalue(), np.arange, SIZE).astype(int) - 77).max() < 4
    assert abs(decode_clip(clear.getvalue(), np.arange, SIZE).astype(int) - (200, 30, 30)).max() < 4


def test_a_photograph_is_turned_upright():
    image = Image.new("RGB", (64, 32), (250, 0, 0))
    image.paste((0, 0, 250), (0, 0, 32, 32))  # blue left, red right
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the left becomes the top
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    (upright,) = decode_clip(buffer.getvalue(), np.arange, (64, 32))
    assert upright[:24, :, 2].min() > 200 and upright[40:, :, 0].min() > 200


def edit_list_shift(data, frames_hidden, frame_ticks):
    """Moves the start of what an MP4 shows: the media time in its edit list."""
    data = bytearray(data)
    at = data.index(b"elst") + 4 + 4 + 4 + 4  # version and flags, count, segment duration (version 0)
    (media_time,) = struct.unpack(">i", data[at : at + 4])
    data[at : at + 4] = struct.pack(">i", media_time + frames_hidden * frame_ticks)
    return bytes(data)


def test_edit_lists_hide_frames(make_video, read_number, tmp_path):
    data = make_video(tmp_path / "v.mp4", 40, options={"g": "12", "bf": "2"}).read_bytes()
    with av.open(io.BytesIO(data)) as container:
        ticks = round(0.1 / container.streams.video[0].time_base)
    hidden = edit_list_shift(data, 15, ticks)
    assert numbers(hidden, np.arange, read_number) == list(range(15, 40))
    assert numbers(hidden, lambda n: np.array([0, 5, n - 1]), read_number) == [15, 20, 39]
    assert numbers(hidden, np.arange, read_number, start=0.5, end=1.0) == list(range(20, 25))
    assert [read_number(frame.to_ndarray(format="rgb24")) for _, frame in frames(hidden)] == list(range(15, 40))


def test_time_stamps_that_start_over(make_video, read_number, tmp_path):
    """Two broadcasts in one file: the second begins at zero again."""
    part = make_video(tmp_path / "v.ts", 30, rate=25, options={"g": "10"}).read_bytes()
    assert numbers(part + part, np.arange, read_number) == [*range(30)] * 2
    assert numbers(part + part, lambda n: np.array([0, n // 2, n - 1]), read_number) == [0, 0, 29]
    other = make_video(tmp_path / "w.ts", 30, rate=25, stamps=range(200, 230), options={"g": "10"}).read_bytes()
    assert sorted(numbers(other + part, np.arange, read_number)) == sorted([*range(30)] * 2)


def test_an_hour_costs_no_more_than_its_limits(make_video, read_number, tmp_path):
    path = make_video(tmp_path / "v.mp4", 2 * 3600, rate=2, size=(32, 32), options={"g": "250", "preset": "ultrafast"})
    data = path.read_bytes()
    assert probe(data).frames == 7200 and probe(data).seconds == pytest.approx(3600, abs=1)
    choose = middle_frames(4).indices
    assert numbers(data, choose, read_number) == [n % 256 for n in choose(7200).tolist()]
    started = time.monotonic()
    assert kind_of(data, limits=Limits(budget_s=0.02)) == "timeout"
    assert time.monotonic() - started < 2
    assert kind_of(data, limits=Limits(max_packets=1000)) == "too_large"
    assert kind_of(data, limits=Limits(max_bytes=len(data) - 1)) == "too_large"


def declared_png(width, height):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


def declared_jpeg(width, height):
    data = bytearray(picture("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def declared_mp4(data, width, height):
    """The sample description of the track says so; the H.264 stream itself still knows better."""
    data = bytearray(data)
    at = data.index(b"avc1", data.index(b"stsd")) + 4 + 24
    assert struct.unpack(">HH", data[at : at + 4]) == (64, 64)
    data[at : at + 4] = struct.pack(">HH", width, height)
    return bytes(data)


@pytest.mark.parametrize("side", [30_000, 12_000])
def test_absurd_sizes_are_refused_before_memory_is_taken(side, make_video, tmp_path):
    video = make_video(tmp_path / "v.mp4", 10).read_bytes()
    make_video(tmp_path / "w.mp4", 3).read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert kind_of(declared_png(side, side)) == "too_large"
    assert kind_of(declared_jpeg(side, side)) == "too_large"
    # FFmpeg may believe the stream instead, which is a fine video
    for data in (declared_mp4(video, side, side), video):
        try:
            decode_clip(data, middle_frames(2).indices, SIZE)
        except VideoError as error:
            assert error.kind == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def test_a_stream_that_is_larger_than_its_container_says(make_video, tmp_path):
    data = make_video(tmp_path / "v.mp4", 10, size=(64, 64)).read_bytes()
    assert kind_of(declared_mp4(data, 16, 16), limits=Limits(max_pixels=32 * 32)) in ("too_large", "damaged", "open")


def test_half_an_image_is_damaged():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG")
    whole = buffer.getvalue()
    assert kind_of(whole[: len(whole) // 2]) == "damaged"
    assert kind_of(whole[:20]) in ("open", "damaged", "no_frames")
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    assert kind_of(buffer.getvalue()[: len(buffer.getvalue()) // 2]) == "damaged"


def test_a_song_with_a_cover(tmp_path):
    with av.open(str(tmp_path / "s.m4a"), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(picture("JPEG"))
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = cover, 0, 0, True
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.start_encoding()
        container.mux(packet)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    assert kind_of((tmp_path / "s.m4a").read_bytes()) == "no_video_stream"


def test_a_codec_nobody_has(make_video, tmp_path):
    data = make_video(tmp_path / "v.mkv", 5).read_bytes()
    assert kind_of(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ")) in ("no_decoder", "no_video_stream")
