"""Every kind of bad file on its way through preparation and pipeline: counted by its reason, and no other video notices."""

import json
import struct
import zlib

import av
import numpy as np
import pytest

from snp_jax.data import decode, pipeline
from snp_jax.data.sources import catalog, prepared, shards, workers
from snp_jax.data.sources.builder import builder_for
from snp_jax.data.sources.folder import read_folder
from snp_jax.data.sources.prepare import Options, prepare

SPEC = pipeline.ClipSpec(num_clips=2, image_size=(32, 32))
BAD = {  # file -> reason at preparation
    "zero_bytes.mp4": "open",
    "web_page.mp4": "open",
    "cut_before_its_index.mp4": "open",
    "sound_only.mp4": "no_video_stream",
    "flipped_bytes.mp4": "damaged",
    "absurd_size.mp4": "too_large",
    "too_many_frames.mp4": "too_large",
}
ODD = {  # usable all the same: file -> frames
    "png_named.mp4": 1,
    "webm_named.avi": 12,
    "one_frame.mp4": 1,
    "cut_tail.mkv": None,
    "time_starts_over.ts": 40,
    "fine.mp4": 20,
}


def declared_png(side):
    """A picture that says it is `side` x `side`."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def bad_folder(tmp_path_factory, make_video, make_sound):
    """A folder dataset of all of them."""
    root = tmp_path_factory.mktemp("bad")
    videos, scratch = root / "videos", root / "scratch"
    videos.mkdir()
    make_video(videos / "fine.mp4", 20)
    make_video(videos / "one_frame.mp4", 1)
    make_video(videos / "too_many_frames.mp4", 200, size=(32, 32))
    make_sound(videos / "sound_only.mp4")
    (videos / "zero_bytes.mp4").write_bytes(b"")
    (videos / "web_page.mp4").write_text("<html>gone</html>" * 40)
    (videos / "absurd_size.mp4").write_bytes(declared_png(30_000))
    whole = make_video(scratch / "v.mp4", 60, size=(128, 128), options={"g": "250"}).read_bytes()
    (videos / "cut_before_its_index.mp4").write_bytes(whole[: whole.index(b"moov")])
    flipped = bytearray(whole)
    start = whole.index(b"mdat") + 1200
    for i in np.random.default_rng(0).integers(start, start + 2000, 200):
        flipped[i] ^= 0xFF
    (videos / "flipped_bytes.mp4").write_bytes(flipped)
    whole = make_video(scratch / "v.mkv", 60, size=(128, 128), options={"g": "12"}).read_bytes()
    (videos / "cut_tail.mkv").write_bytes(whole[: len(whole) * 6 // 10])
    broadcast = make_video(scratch / "v.ts", 20, rate=25, options={"g": "10"}).read_bytes()
    (videos / "time_starts_over.ts").write_bytes(broadcast * 2)
    make_video(scratch / "v.webm", 12, codec="libvpx").rename(videos / "webm_named.avi")
    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
    with av.open(str(scratch / "v.png"), "w", format="image2") as container:
        stream = container.add_stream("png")
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (scratch / "v.png").rename(videos / "png_named.mp4")
    lines = [{"video": name, "captions": [f"this is {name}"]} for name in (*BAD, *ODD)]
    (root / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture(scope="module")
def stored(bad_folder, tmp_path_factory):
    """The folder, prepared with a limit of 150 frames a video."""

    def here(tasks, **options):
        for task in tasks:
            shards.write_shard(task, {}, lambda position: None)

    out = tmp_path_factory.mktemp("out") / "data"
    limits = decode.Limits(max_packets=150)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "write_shards", here)
        prepare(read_folder(bad_folder), builder_for(catalog.find("folder"), str(out.parent)), out, Options(limits=limits))
    return out


def test_preparation_counts_by_reason(stored):
    (summary,) = prepared.read_summaries(stored).values()
    assert summary.broken == {"open": 3, "no_video_stream": 1, "damaged": 1, "too_large": 2}
    assert (summary.videos, summary.unreadable, summary.missing) == (len(BAD) + len(ODD), len(BAD), 0)
    lines = [json.loads(line) for line in (stored / prepared.BROKEN_FILE).read_text().splitlines()]
    assert {line["video_id"]: line["reason"].partition(":")[0] for line in lines} == {
        name.rpartition(".")[0]: reason for name, reason in BAD.items()
    }


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_pipeline_masks_them_and_goes_on(num_workers, stored):
    source = pipeline.open_source(stored, "train")
    stream = pipeline.eval_batches(source, spec=SPEC, batch_size=5, reading=pipeline.Reading(num_workers, 1, 4))
    seen = {}
    for batch in stream:
        for video_id, failure, valid in zip(batch["video_id"], batch["failure"], batch["valid"], strict=True):
            seen[str(video_id)] = str(failure).partition(":")[0]
            assert valid == (video_id != "" and not failure)
    stream.close()
    seen.pop("")
    expected = {name.rpartition(".")[0]: BAD.get(name, "") for name in (*BAD, *ODD)}
    expected["too_many_frames"] = ""  # within the limits of training
    assert seen == expected


@pytest.mark.parametrize("name", [name for name, count in ODD.items() if count is not None])
def test_odd_files_have_all_their_frames(name, bad_folder):
    assert decode.probe((bad_folder / "videos" / name).read_bytes()).frames == ODD[name]
