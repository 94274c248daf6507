"""COCO captions and Visual Genome: images with several sentences."""

import numpy as np
import pytest

from snp_jax.data.decode import decode_clip
from snp_jax.data.sources import images
from snp_jax.errors import UserError


@pytest.fixture
def coco(tmp_path, write_json, make_image):
    for split, ids in {"train": range(3), "val": range(100, 110)}.items():
        entries = [{"id": i, "file_name": f"{i:012d}.jpg", "height": 48, "width": 64, "license": 1} for i in ids]
        notes = [{"id": n, "image_id": i, "caption": f"caption {k} of {i} \n"} for k in range(2) for n, i in enumerate(ids)]
        notes.append({"id": 99, "image_id": ids[0], "caption": " "})
        content = {"info": {}, "licenses": [], "images": entries, "annotations": notes}
        write_json(tmp_path / "annotations" / f"captions_{split}2017.json", content)
        for i in ids:
            make_image(tmp_path / f"{split}2017" / f"{i:012d}.jpg")
    return tmp_path


def test_coco(coco, store):
    (coco / "train2017" / "000000000002.jpg").unlink()
    stored = store("coco2017", coco)
    assert stored.numbers("train") == (2, 4, 0, 0, 1, 0)
    assert stored.numbers("val") == (10, 20, 0, 0, 0, 0)
    assert (stored.summaries["val"].images, stored.summaries["val"].seconds) == (10, 0)
    assert stored.annotation("train", "train2017/000000000000").captions == ("caption 0 of 0", "caption 1 of 0")
    frames = decode_clip(stored.records["val"]["val2017/000000000100"].video, lambda n: np.zeros(1, int) + n - 1, (8, 8))
    assert frames.shape == (1, 8, 8, 3) and abs(frames[0, 4, 4].astype(int) - (200, 30, 30)).max() < 6


def test_coco_as_the_release_splits_it(coco):
    train, val = images.read_coco(coco, "snps3").splits
    held_out = {row.annotation.video_id for row in val.rows}
    assert len(train.rows) == 3 + 8 and len(val.rows) == 2
    assert not held_out & {row.annotation.video_id for row in train.rows}
    assert (train.expected.videos, val.expected.videos) == (118_287 + 4_000, 1_000)
    assert {row.annotation.video_id for row in images.read_coco(coco, "snps3").splits[1].rows} == held_out
    assert held_out == {"val2017/000000000102", "val2017/000000000107"}  # fixed for good: changing it would leak


def test_coco_without_images(coco):
    (coco / "val2017").rename(coco / "elsewhere")
    with pytest.raises(UserError, match="coco2017/official: no folder val2017"):
        images.read_coco(coco, "official")


@pytest.fixture
def genome(tmp_path, write_json, make_image):
    def region(phrase, key="region_id"):
        return {key: 7, "image_id": 1, "x": 0, "y": 0, "width": 9, "height": 9, "phrase": phrase}

    entries = [
        {"id": 1, "regions": [region("a red bus "), region("a red bus"), region("sky", key="id")]},
        {"id": 2, "regions": []},  # nothing to say
        {"image_id": 3, "regions": [region("a kerb")]},
        {"id": 4, "regions": [region(" ")]},
    ]
    write_json(tmp_path / "region_descriptions.json", entries)
    make_image(tmp_path / "VG_100K" / "1.jpg")
    make_image(tmp_path / "VG_100K_2" / "3.jpg")
    return tmp_path


def test_visual_genome(genome, store):
    stored = store("vg", genome)
    assert stored.numbers("train") == (2, 4, 0, 0, 0, 0)
    assert stored.annotation("train", "vg/1").captions == ("a red bus", "a red bus", "sky")
    assert stored.annotation("train", "vg/3").captions == ("a kerb",)


def test_visual_genome_without_the_images_of_coco_val(genome, write_json):
    write_json(genome / "captions_val2017.json", {"images": [{"id": 139}], "annotations": []})
    write_json(
        genome / "image_data.json", [{"image_id": 1, "coco_id": 139, "flickr_id": None}, {"image_id": 3, "coco_id": None}]
    )
    (split,) = images.read_visual_genome(genome, "without_coco_val").splits
    assert [row.annotation.video_id for row in split.rows] == ["vg/3"]
