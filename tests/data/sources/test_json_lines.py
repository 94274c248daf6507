"""The release's JSON lines: captions, spans, images, questions, choices; and every complaint."""

import shutil
from pathlib import Path

import pytest

from snp_jax.data.records import Question
from snp_jax.data.sources import json_lines
from snp_jax.data.sources.reencode import Encoding
from snp_jax.errors import UserError

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def line(clip="data/mp4/video1", caption="a dog", **more):
    return {"caption": caption, "clip_name": clip, "sen_id": 0, **more}


def test_retrieval(tmp_path, write_json, make_video, store):
    write_json(tmp_path / "msrvtt_train.jsonl", [line(label=1), line(clip="b.avi"), line(caption="it\nruns", label=2)])
    write_json(tmp_path / "msrvtt_test.jsonl", [line(clip="video9", retrieval_key="ret0"), line(clip="gone")])
    make_video(tmp_path / "data" / "mp4" / "video1.mp4", 3)
    make_video(tmp_path / "videos" / "b.avi", 3, codec="mpeg4")
    make_video(tmp_path / "elsewhere" / "video9.webm", 3, codec="libvpx")
    stored = store("jsonl/retrieval", tmp_path)
    assert stored.numbers("train") == (2, 3, 0, 0, 0, 0)
    assert stored.annotation("train", "data/mp4/video1").captions == ("a dog", "it runs")
    assert stored.numbers("test") == (2, 2, 0, 0, 1, 0)
    assert stored.records["test"]["video9"].video


def test_spans_and_images(tmp_path, write_json, make_video, make_image, store):
    spans = [{"start": 0.0, "end": 0.2}, {"start": 0.3, "end": 0.5}, {"start": 0.0, "end": 0.2}]
    lines = [line(clip="v.mp4", caption=f"c{i}", type="video", **span) for i, span in enumerate(spans)]
    lines += [line(clip="dog.jpg", type="image", start=None, end=None), line(clip="cat", type="image")]
    write_json(tmp_path / "univl_train.jsonl", lines)
    make_video(tmp_path / "v.mp4", 6)
    make_image(tmp_path / "images" / "dog.jpg")
    make_image(tmp_path / "cat.jpg")
    stored = store("jsonl/retrieval", tmp_path)
    assert stored.numbers("train") == (4, 5, 0, 0, 0, 0) and stored.summaries["train"].images == 2
    first, second = (stored.annotation("train", f"v#{i}") for i in range(2))
    assert first.captions == ("c0", "c2") and (first.start, first.end) == (0.0, pytest.approx(0.2))
    assert second.captions == ("c1",) and (second.start, second.end) == pytest.approx((0.3, 0.5))
    assert set(stored.records["train"]) == {"v#0", "v#1", "dog", "cat"}


def test_questions(tmp_path, write_json):
    write_json(
        tmp_path / "train_antmmf.jsonl", [line(caption="what runs", label=7), line(caption="who sits", answer="dog", label=1)]
    )
    ((row,),) = (split.rows for split in json_lines.read_lines(tmp_path, "qa").splits)
    assert row.annotation.questions == (Question("what runs", "7", "what"), Question("who sits", "dog", "who"))
    assert row.annotation.captions == ()


def test_choices(tmp_path, write_json):
    lines = [{"qid": f"mc{i}", "clip_name": "v.mp4", "answer": str(i), "options": ["a", "b"]} for i in range(2)]
    write_json(tmp_path / "test.jsonl", [*lines, {**lines[0], "clip_name": "w.mp4"}])
    (split,) = json_lines.read_lines(tmp_path, "choice").splits
    assert [(row.annotation.video_id, row.annotation.option_answer) for row in split.rows] == [("v#0", 0), ("v#1", 1), ("w", 0)]


@pytest.mark.parametrize(
    "entry, variant, message",
    [
        ({"caption": "x"}, "retrieval", '"clip_name" must be str, found no such key'),
        (line(caption=3), "retrieval", '"caption" must be str, found 3'),
        (line(caption=" "), "retrieval", '"caption" is empty'),
        (line(type="sound"), "retrieval", '"type" must be "video" or "image", found \'sound\''),
        (line(start="0"), "retrieval", '"start" must be a time in seconds'),
        (line(start=2, end=1), "retrieval", "the span ends at 1.0 s"),
        (line(), "qa", 'a question needs an "answer" or a "label"'),
        (
            line(options=["a", "b"], answer="2"),
            "choice",
            '"answer" must be the index of one of several "options", found \'2\' of 2',
        ),
    ],
)
def test_complaints_name_the_line(entry, variant, message, tmp_path, write_json):
    good = {"qa": line(label=1), "choice": line(options=["a", "b"], answer=0)}.get(variant, line())
    write_json(tmp_path / "train.jsonl", [good, entry])
    with pytest.raises(UserError) as caught:
        json_lines.read_lines(tmp_path, variant)
    assert str(caught.value).startswith(f"{tmp_path}/train.jsonl:2: ") and message in str(caught.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the sample files of the project are not beside it")
def test_the_samples_of_the_release(tmp_path, store, make_image):
    for name in ("msrvtt_train.jsonl", "msrvtt_test.jsonl", "video9770.mp4", "video9771.mp4"):
        shutil.copy(SHARED / name, tmp_path / name)
    stored = store("jsonl/retrieval", tmp_path)
    assert stored.numbers("train") == (2, 4, 0, 0, 0, 0) and stored.numbers("test") == (2, 2, 0, 0, 0, 0)
    assert 20 < stored.summaries["test"].seconds < 30
    for name in ("univl_video.jsonl", "univl_img.jsonl"):
        shutil.copy(SHARED / name, tmp_path / name.replace("univl", "univl_val"))
    make_image(tmp_path / "dog.jpg")
    (tmp_path / "msrvtt_test.jsonl").unlink()
    stored = store("jsonl/retrieval", tmp_path, reencode=Encoding())
    assert stored.numbers("val") == (4, 9, 0, 0, 0, 0) and stored.summaries["val"].images == 1
