"""CC3M in its three layouts, and WebVid's tables."""

import csv
import io
import json
import tarfile
import zlib

import pytest

from snp_jax.data.sources import web
from snp_jax.errors import UserError

PAIRS = [("a person 's \"dog", "http://x.org/1.jpg"), ("a cat", "http://x.org/2.jpg?a=b"), ("a cow", "http://x.org/3.jpg")]


def table(path, pairs):
    path.write_text("".join(f"{caption}\t{place}\n" for caption, place in pairs))


def rows(manual):
    return {
        split.name: [(r.annotation.video_id, r.annotation.captions, r.media and r.media.read()) for r in split.rows]
        for split in web.read_cc3m(manual).splits
    }


def test_cc3m_as_the_official_script_leaves_it(tmp_path, make_image, store):
    """Files named by the checksum of their address, without suffix; quotes in the table mean nothing."""
    table(tmp_path / "Train_GCC-training.tsv", PAIRS)
    table(tmp_path / "Validation_GCC-1.1.0-Validation.tsv", PAIRS[2:])
    for folder, pairs in {"training": PAIRS[:2], "validation": PAIRS[2:]}.items():
        for _, url in pairs:
            make_image(tmp_path / folder / str(zlib.crc32(url.encode()) & 0xFFFFFFFF))
    (tmp_path / "training" / str(zlib.crc32(PAIRS[1][1].encode()))).write_text("<html>gone</html>")  # "successful"
    stored = store("cc3m", tmp_path)
    assert stored.numbers("train") == (2, 2, 0, 0, 1, 1)
    assert stored.summaries["train"].broken == {"open": 1}
    assert stored.numbers("val") == (1, 1, 0, 0, 0, 0)
    assert stored.annotation("train", "train/0000000").captions == ("a person 's \"dog",)
    assert stored.missing() == {("train", "train/0000002", "file")}
    assert [split.expected.videos for split in web.read_cc3m(tmp_path).splits] == [3_318_333, 15_840]


def test_cc3m_as_tar_files(tmp_path, make_image):
    image = make_image(tmp_path / "i.jpg").read_bytes()
    for number, suffixes in enumerate([("jpg", "json", "txt"), ("jpg", "json")]):
        (tmp_path / "training").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "training" / f"{number:05d}.tar", "w") as tar:
            for key in range(2):
                content = {
                    "jpg": image,
                    "json": json.dumps({"caption": f"json {key}"}).encode(),
                    "txt": f"text {key}\n".encode(),
                }
                for suffix in suffixes:
                    member = tarfile.TarInfo(f"{number:05d}{key:04d}.{suffix}")
                    member.size = len(content[suffix])
                    tar.addfile(member, io.BytesIO(content[suffix]))
    assert rows(tmp_path) == {
        "train": [
            ("train/000000000", ("text 0",), image), ("train/000000001", ("text 1",), image),
            ("train/000010000", ("json 0",), image), ("train/000010001", ("json 1",), image),
        ]
    }  # fmt: skip
    cut = (tmp_path / "training" / "00001.tar").read_bytes()[:900]
    (tmp_path / "training" / "00001.tar").write_bytes(cut)
    with pytest.raises(UserError, match="00001.tar: not a whole tar file"):
        rows(tmp_path)


def test_cc3m_as_folders(tmp_path, make_image):
    make_image(tmp_path / "training" / "00000" / "000000003.jpg")
    (tmp_path / "training" / "00000" / "000000003.txt").write_text("a cat")
    (tmp_path / "training" / "00000" / "000000004.json").write_text(json.dumps({"caption": "lost", "status": "failed"}))
    assert [(name, captions, media is not None) for name, captions, media in rows(tmp_path)["train"]] == [
        ("train/000000003", ("a cat",), True), ("train/000000004", ("lost",), False),
    ]  # fmt: skip


def test_cc3m_as_relative_paths(tmp_path, make_image):
    table(tmp_path / "train.tsv", [("a cat", "images/a.jpg")])
    image = make_image(tmp_path / "images" / "a.jpg").read_bytes()
    assert rows(tmp_path) == {"train": [("train/0000000", ("a cat",), image)]}


def test_cc3m_complaints(tmp_path):
    with pytest.raises(UserError, match="cc3m: found none of"):
        web.read_cc3m(tmp_path)
    (tmp_path / "Train_GCC-training.tsv").write_text("a cat\thttp://x\na cow without address\n")
    with pytest.raises(UserError, match="Train_GCC-training.tsv:2: expected two columns"):
        rows(tmp_path)


COLUMNS = ["videoid", "contentUrl", "duration", "page_dir", "name"]


def webvid_table(path, entries, columns=COLUMNS):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(entries)


def clip(number, name="A dog, running.  Slow motion"):
    return {
        "videoid": number, "contentUrl": "https://x/1.mp4", "duration": "PT00H00M15S", "page_dir": "001_050", "name": name,
        "page_idx": 3,
    }  # fmt: skip


def test_webvid(tmp_path, make_video, store):
    webvid_table(tmp_path / "results_2M_train.csv", [clip(1), clip(2), clip(3, name=""), clip(4)], [*COLUMNS, "page_idx"])
    webvid_table(tmp_path / "results_2M_val.csv", [clip(9)])
    make_video(tmp_path / "videos" / "001_050" / "1.mp4", 4)
    make_video(tmp_path / "videos" / "2.mp4", 4)
    make_video(tmp_path / "9.mp4", 4)
    stored = store("webvid2m", tmp_path)
    assert stored.numbers("train") == (2, 2, 0, 0, 1, 0)  # the row without a caption is nobody's
    assert stored.numbers("val") == (1, 1, 0, 0, 0, 0)
    assert stored.annotation("train", "1").captions == ("A dog, running. Slow motion",)


def test_any_table_with_these_columns(tmp_path, make_video):
    webvid_table(tmp_path / "metadata" / "mine_train_10k.csv", [clip(1)], ["name", "videoid"])
    make_video(tmp_path / "1.mp4", 3)
    (split,) = web.read_webvid(tmp_path, "any").splits
    assert [row.media.path for row in split.rows] == [str(tmp_path / "1.mp4")]
    webvid_table(tmp_path / "metadata" / "mine_train_10k.csv", [clip(1)], ["videoid", "duration"])
    with pytest.raises(
        UserError, match="the first line must name the columns videoid, name; found videoid, duration, without name"
    ):
        list(web.read_webvid(tmp_path, "any").splits[0].rows)
