"""Folder datasets: what is read, stored and counted, and every complaint about a bad one."""

import json

import pytest

from snp_jax.data.sources import folder, prepared
from snp_jax.errors import UserError


@pytest.fixture
def small(tmp_path, make_video):
    """Two training videos and one for validation; the tests then spoil it."""
    for name in ("a.mp4", "sub/b.mp4", "c.mp4"):
        make_video(tmp_path / "videos" / name, 6)
    write(
        tmp_path / "train.jsonl",
        [{"video": "a.mp4", "captions": ["x"]}, {"video": "sub/b.mp4", "captions": ["y"]}],
    )
    write(tmp_path / "val.jsonl", [{"video": "c.mp4", "captions": ["z"]}])
    return tmp_path


def write(file, entries):
    file.write_text("".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in entries))


def read(directory, **options):
    return {split.name: list(split.rows) for split in folder.read_folder(directory, **options).splits}


def complaint(directory, **options):
    with pytest.raises(UserError) as caught:
        folder.read_folder(directory, **options)
    return str(caught.value)


def test_splits_in_the_order_of_their_lines(small):
    splits = read(small)
    assert list(splits) == ["train", "val"]
    assert [video.annotation.video_id for video in splits["train"]] == ["a", "sub/b"]
    assert splits["val"][0].media.path == str(small / "videos" / "c.mp4")


def test_missing_and_empty_folders(tmp_path):
    assert complaint(tmp_path / "no") == f"{tmp_path}/no: no such folder; give the folder that holds videos/ and train.jsonl"
    assert "the folder is empty" in complaint(tmp_path)
    (tmp_path / "train.jsonl").write_text("")
    assert f"{tmp_path}/videos: no such folder" in complaint(tmp_path)


def test_no_jsonl_and_empty_jsonl(small):
    (small / "train.jsonl").write_text("\n  \n")
    assert complaint(small).startswith(f"{small}/train.jsonl: the file has no lines")
    (small / "train.jsonl").unlink()
    (small / "val.jsonl").rename(small / "validation.jsonl")
    assert "found none of train.jsonl, val.jsonl, test.jsonl" in complaint(small)


def test_malformed_line_is_named(small):
    write(small / "train.jsonl", [{"video": "a.mp4", "captions": ["x"]}, "", "{oops"])
    assert complaint(small).startswith(f"{small}/train.jsonl:3: this line is not JSON")


def test_wrong_encoding_is_named(small):
    (small / "val.jsonl").write_bytes('{"video": "c.mp4", "captions": ["é"]}\n'.encode("latin-1"))
    assert complaint(small).startswith(f"{small}/val.jsonl:1: byte 33 is not UTF-8")


def test_byte_order_mark_is_no_problem(small):
    (small / "val.jsonl").write_bytes(b"\xef\xbb\xbf" + (small / "val.jsonl").read_bytes())
    assert read(small)["val"][0].annotation.video_id == "c"


def test_captions_without_videos(small):
    lines = [{"video": f"gone_{i}.mp4", "captions": ["x"]} for i in range(5)]
    write(small / "train.jsonl", [{"video": "a.mp4", "captions": ["x"]}, *lines])
    message = complaint(small, allow_unused=True)
    assert message.startswith(f"{small}/train.jsonl:2: 5 annotated videos are not in {small}/videos")
    assert "(gone_0.mp4, gone_1.mp4, gone_2.mp4 and 2 more)" in message


def test_videos_without_captions(small, make_video):
    make_video(small / "videos" / "extra.mp4", 3)
    (small / "videos" / ".DS_Store").write_bytes(b"x")  # hidden files are nobody's video
    assert "1 video has no captions (extra.mp4); add their lines, or pass --allow-unused" in complaint(small)
    splits = read(small, allow_unused=True)
    assert sum(len(videos) for videos in splits.values()) == 3


def test_one_video_has_one_line_in_one_split(small):
    write(small / "val.jsonl", [{"video": "c.mp4", "captions": ["z"]}, {"video": "a.mp4", "captions": ["x"]}])
    message = complaint(small)
    assert message.startswith(f'{small}/val.jsonl:2: video id "a" was already used at {small}/train.jsonl:1')
    write(small / "val.jsonl", [{"video": "c.mp4", "captions": ["z"]}, {"video": "c.avi", "captions": ["z"]}])
    assert 'video id "c" was already used' in complaint(small)


def test_fits_must_name_videos_of_the_split(small):
    write(small / "val.jsonl", [{"video": "c.mp4", "captions": ["z"], "fits": [["a"]]}])
    assert complaint(small).startswith(f'{small}/val.jsonl:1: "fits" names a, which no line of the val split')


def test_stored_dataset_holds_everything(folder_dataset, prepared_dataset):
    splits = read(folder_dataset)
    for split, videos in splits.items():
        source = prepared.open_source(prepared_dataset, split)
        stored = {source[i].annotation.video_id: source[i] for i in range(len(source))}
        assert len(source) == len(videos) == len(stored)
        for video in videos:
            assert stored[video.annotation.video_id].annotation == video.annotation
            assert stored[video.annotation.video_id].video == video.media.read()


def test_summary(prepared_dataset):
    summary = prepared.read_summaries(prepared_dataset)["train"]
    assert (summary.videos, summary.captions, summary.questions, summary.choices) == (16, 48, 16, 16)
    assert summary.unreadable == 3 and summary.broken == {"no_video_stream": 1, "open": 2}
    assert (summary.images, summary.missing) == (0, 0)
    frames = sum(12 + i % 11 for i in range(13))
    assert summary.seconds == pytest.approx(frames / 10, rel=0.02)
