"""The report: self-contained, complete, with the numbers and pictures it was given."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from snp_jax.errors import UserError
from snp_jax.eval.report import HeatMap, Query, ReportData, Retrieved, Run, report_html, write_report
from snp_jax.eval.report_images import frame_strip, heat_colours, loss_chart, read_curves, smooth
from snp_jax.eval.tables import Bars

RECALLS = {"r1": 31.4, "r5": 60.2, "r10": 77.7, "mdr": 3.0}
RESULTS = {
    "retrieval": {"gallery": 500, "t2v": RECALLS, "v2t": RECALLS, "stage1": {"t2v": RECALLS, "v2t": RECALLS}},
    "qa": {"accuracy": 61.3, "majority_baseline": 40.0},
    "mc": {"accuracy": 85.0},
    "no_pretraining": {
        "retrieval": {"t2v": {**RECALLS, "r1": 22.2}},
        "qa": {"accuracy": 55.5},
        "mc": {"accuracy": 70.1},
    },
    "seconds": {"corpus": 61.0, "pre-train": 363.0, "evaluate": 30.0},
}


class Pages(HTMLParser):
    """Collects tags, and checks that they are closed in order."""

    VOID = ("meta", "img")

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def video(seed: int, frames: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (frames, 48, 64, 3)).astype(np.uint8)


@pytest.fixture
def data(tmp_path) -> ReportData:
    lines = [{"step": s, "loss": 3 / (1 + s), "loss/mlm": 2 / (1 + s), "accuracy": 0.5} for s in range(0, 300, 10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3')
    retrieved = [Retrieved(f"test_{i:05d}", video(i), 5.25 - i, right=i == 1) for i in range(5)]
    return ReportData(
        title="A <title> & more",
        summary="One sentence.",
        facts={"seed": "0", "device": "2 cores"},
        results=RESULTS,
        bars=Bars(t2v_r1=25, t2v_r10=70, qa_gain=25, mc=80),
        runs=[Run("pre-training", tmp_path / "metrics.jsonl")],
        queries=[Query("a <red> circle moves left", retrieved, rank=2)],
        heat_maps=[
            HeatMap(
                "a circle spins",
                "test_00007",
                ["circle", "spins"],
                np.array([[1, 2.5, 1], [0, 0, 9]]),
                video(9, 3),
            )
        ],
    )


def test_the_page_is_self_contained_and_well_formed(data):
    page = Pages()
    page.feed(report_html(data))
    assert page.open == []
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 5 + 3 + 1  # strips, clips, chart
    for source in images:
        kind, content = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", source).groups()
        assert Image.open(io.BytesIO(base64.b64decode(content))).format == kind.upper()
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert "http" not in re.sub(r"base64,[^\"]*", "", report_html(data))


def test_the_page_shows_what_it_was_given(data):
    page = Pages()
    page.feed(report_html(data))
    for expected in (
        "A <title> & more",
        "a <red> circle moves left",
        "31.4",
        "without pre-training 22.2",
        "bar 65.0",  # majority 40 + 25
        "55.5",
        "70.1",
        "250.5",
        "6 min 03 s",
        "30.0 s",
        "7 min 34 s",
        "2 cores",
        "spins",
        "2.50",
        "rank of the best right video: 2",
    ):
        assert expected in page.text, expected


def test_only_the_right_video_is_marked(data):
    html = report_html(data)
    figures = re.findall(r'<figure class="(video[ a-z]*)">.*?</b> (test_\d+)', html)
    assert figures == [("video right" if i == 1 else "video", f"test_{i:05d}") for i in range(5)]
    assert html.count('class="missed"') == 1 and html.count('class="reached"') == 3


def test_an_empty_report_has_no_empty_sections():
    html = report_html(ReportData("t", "s", {}, {}))
    assert "<section>" not in html and "tiles" not in html.split("</style>")[1]


def test_write_report_replaces_the_file(tmp_path, data):
    (tmp_path / "report.html").write_text("old")
    write_report(tmp_path / "report.html", data)
    assert (tmp_path / "report.html").read_text() == report_html(data)


def test_read_curves(tmp_path, data):
    curves = read_curves(tmp_path / "metrics.jsonl")
    assert list(curves) == ["loss", "loss/mlm"]  # not the accuracy, and the cut-off last line is left out
    steps, values = curves["loss/mlm"]
    assert steps.tolist() == list(range(0, 300, 10)) and values[1] == pytest.approx(2 / 11)
    assert list(read_curves(tmp_path / "metrics.jsonl", ("accuracy", "absent"))) == ["accuracy"]
    with pytest.raises(UserError, match="no loss was written .absent"):
        read_curves(tmp_path / "metrics.jsonl", ("absent",))
    with pytest.raises(UserError, match="train first"):
        read_curves(tmp_path / "nothing.jsonl")


def test_smoothing_keeps_a_line_and_flattens_noise():
    line = np.linspace(5, 1, 400)
    np.testing.assert_allclose(smooth(line), line)
    noise = np.random.default_rng(0).normal(size=400)
    assert smooth(noise).std() < 0.5 and smooth(noise).shape == (400,)
    np.testing.assert_array_equal(smooth(np.array([3.0])), [3.0])


def test_charts_are_the_same_for_the_same_numbers(tmp_path, data):
    curves = read_curves(tmp_path / "metrics.jsonl")
    assert loss_chart(curves) == loss_chart(curves)


def test_strips_show_evenly_chosen_frames():
    frames = np.zeros((9, 40, 60, 3), np.uint8)
    frames[:, :, :, 0] = 25 * np.arange(9)[:, None, None]
    strip = np.array(Image.open(io.BytesIO(frame_strip(frames, max_frames=3, height=20))))
    assert strip.shape == (20, 3 * 30 + 2 * 2, 3)
    np.testing.assert_allclose(strip[10, [15, 47, 79], 0], [0, 100, 200], atol=4)
    with pytest.raises(ValueError, match="uint8"):
        frame_strip(frames.astype(np.float32))


def test_heat_colours_compare_a_word_with_its_own_mean():
    colours = heat_colours(np.array([[100.0, 102, 100, 98], [5, 5, 5, 5]]))
    assert colours[1] == ["#ffffff"] * 4 and colours[0][0] == colours[0][2] == "#ffffff"
    warm, cold = (tuple(int(colours[0][i][j : j + 2], 16) for j in (1, 3, 5)) for i in (1, 3))
    assert warm[0] > warm[2] and cold[2] > cold[0]


def test_a_heat_map_of_the_wrong_shape_is_refused(data):
    wrong = HeatMap("c", "v", ["one"], np.zeros((2, 3)), video(0, 3))
    with pytest.raises(ValueError, match="1 words and 3 frames"):
        report_html(ReportData("t", "s", {}, {}, heat_maps=[wrong]))
