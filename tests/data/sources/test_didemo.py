"""DiDeMo: paragraphs in file order, two names for one video, and files under every suffix."""

import pytest

from snp_jax.data.sources import didemo

NAMES = {  # name in the annotations -> name on disk
    "1@N00_1_aaa.mov": "1@N00_1_aaa.mov",
    "2@N00_2_bbb.mov": "2@N00_2_bbb.mov.mp4",  # the AWS script appends
    "3@N00_3_ccc.avi": "3@N00_3_ccc.mp4",  # converted
    "10052357@N03_7585070382_5762149bfc.": "10052357@N03_7585070382_5762149bfc.",  # a bare dot
    "4@N00_4_ddd.m4v": "4@N00_4_ddd.3gp",
}


def entry(video, text, times=((0, 0),)):
    return {"annotation_id": 1, "description": text, "video": video, "times": list(times), "num_segments": 6, "dl_link": "x"}


@pytest.fixture
def manual(tmp_path, write_json, make_video):
    for name in NAMES.values():
        written = make_video(tmp_path / "made" / "v.mp4", 4)
        (tmp_path / "videos").mkdir(exist_ok=True)
        written.rename(tmp_path / "videos" / name)
    names = list(NAMES)
    write_json(tmp_path / "train_data.json", [entry(names[0], "The dog\nruns. ", [(3, 3)]), entry(names[1], "b"),
                                              entry(names[0], " it stops ", [(0, 0)])])  # fmt: skip
    write_json(tmp_path / "val_data.json", [entry(names[2], "first"), entry(names[2].replace(".avi", ".mp4"), "second")])
    write_json(
        tmp_path / "test_data.json", [entry(names[3], "dot"), entry(names[4], "other"), entry("5@N00_5_eee.mp4", "gone")]
    )
    return tmp_path


def test_paragraphs(manual, store):
    stored = store("didemo", manual)
    assert stored.numbers("train") == (2, 2, 0, 0, 0, 0)
    assert stored.numbers("val") == (1, 1, 0, 0, 0, 0)
    assert stored.numbers("test") == (3, 3, 0, 0, 1, 0)
    assert stored.annotation("train", "1@N00_1_aaa").captions == ("The dog runs. it stops",)  # file order, not time
    assert stored.annotation("val", "3@N00_3_ccc").captions == ("first second",)  # two names, one video
    assert stored.annotation("test", "10052357@N03_7585070382_5762149bfc").captions == ("dot",)
    assert stored.missing() == {("test", "5@N00_5_eee", "file")}


def test_sizes_are_those_by_stem(manual):
    splits = didemo.read_paragraphs(manual, "paragraph").splits
    assert [(split.expected.videos, split.expected.certain) for split in splits] == [
        (8_395, False),
        (1_065, True),
        (1_004, True),
    ]


def test_the_lists_of_collaborative_experts_lose_sentences(manual):
    for split, names in {"train": list(NAMES)[:2], "val": [list(NAMES)[2]], "test": list(NAMES)[3:]}.items():
        (manual / f"{split}_list.txt").write_text("\n".join(names))
    train, val, _ = didemo.read_paragraphs(manual, "paragraph_ce").splits
    assert [row.annotation.captions for row in val.rows] == [("first",)]
    assert train.expected.videos == 8_392


def test_the_annotated_part(manual):
    splits = didemo.read_paragraphs(manual, "paragraph_31s").splits
    assert {row.annotation.end for split in splits for row in split.rows} == {31.0}
