"""The HTML report of a run: one file that needs nothing else, no network and no script.

Everything it shows comes in `ReportData`; nothing here runs a model or reads a video. Pictures are made in
`report_images`, tables in `tables`, looks are in `report_style`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from snp_jax.data.corpus_files import write_atomically
from snp_jax.eval.report_images import frame_strip, heat_colours, loss_chart, read_curves
from snp_jax.eval.report_style import STYLE
from snp_jax.eval.tables import Bars, Table, result_tables


@dataclass(frozen=True)
class Run:
    """A training run to draw: its `metrics.jsonl`, and the terms (None = "loss" and all "loss/...")."""

    name: str
    metrics: str | Path
    terms: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Retrieved:
    """A video in a query's answer list: frames uint8 [N, H, W, 3], score, and whether it is a right one."""

    video_id: str
    frames: np.ndarray
    score: float
    right: bool


@dataclass(frozen=True)
class Query:
    """A test caption, the videos it retrieved (best first), and the rank of its best right video."""

    caption: str
    retrieved: Sequence[Retrieved]
    rank: float


@dataclass(frozen=True)
class HeatMap:
    """LVWM similarities of a caption's K words and a video's N clips.

    Attributes: caption, video_id; words (K strings), similarity float [K, N], frames uint8 [N, H, W, 3] (one
    per clip).
    """

    caption: str
    video_id: str
    words: Sequence[str]
    similarity: np.ndarray
    frames: np.ndarray


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows; an empty part is left out.

    Attributes: title; summary (one sentence under it); facts (name -> value: configuration, machine, date);
    results (results.json, see `tables`); bars; runs; queries; heat_maps.
    """

    title: str
    summary: str
    facts: Mapping[str, str]
    results: Mapping
    bars: Bars | None = None
    runs: Sequence[Run] = ()
    queries: Sequence[Query] = ()
    heat_maps: Sequence[HeatMap] = ()


def write_report(path: str | Path, data: ReportData) -> None:
    """Writes the report, replacing the file in one step.

    Raises:
      UserError: a metrics file that cannot be read, or a report that cannot be written.
    """
    write_atomically(path, report_html(data).encode())


def report_html(data: ReportData) -> str:
    """The report as the text of one self-contained HTML page."""
    sections = [
        _headlines(data.results, data.bars),
        _section("Results", *map(_table, result_tables(data.results, data.bars))),
        _section("Retrieved videos", *map(_query, data.queries), note=_GALLERY_NOTE),
        _section("Words and clips", *map(_heat_map, data.heat_maps), note=_HEAT_NOTE),
        _section("Loss curves", *map(_curves, data.runs), kind="charts", note=_CURVE_NOTE),
        _section("Time", _seconds(data.results)) if data.results.get("seconds") else "",
        _section("Configuration", _facts(data.facts)) if data.facts else "",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(data.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(data.title)}</h1>\n<p>{escape(data.summary)}</p></header>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


_GALLERY_NOTE = (
    "Test captions and the five videos that the model ranks first, as evenly chosen frames. A right video has a green frame."
)
_HEAT_NOTE = (
    "Similarity of each significant word of the caption with each clip of its video. Orange: higher than the "
    "word's mean over the clips; blue: lower."
)
_CURVE_NOTE = "Thin: as measured in training; thick: moving average."


def _section(title: str, *parts: str, kind: str = "", note: str = "") -> str:
    if not parts:
        return ""
    body = "\n".join(parts)
    body = f'<div class="{kind}">{body}</div>' if kind else body
    note = f'<p class="note">{escape(note)}</p>\n' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{note}{body}\n</section>"


def _headlines(results: Mapping, bars: Bars | None) -> str:
    """The four numbers with a bar as tiles."""
    tiles = []
    t2v = results.get("retrieval", {}).get("t2v")
    plain = results.get("no_pretraining", {})
    if t2v is not None:
        before = plain.get("retrieval", {}).get("t2v", {})
        tiles.append(("text to video R@1", t2v["r1"], bars and bars.t2v_r1, before.get("r1")))
        tiles.append(("text to video R@10", t2v["r10"], bars and bars.t2v_r10, before.get("r10")))
    if "qa" in results:
        qa = results["qa"]
        bar = bars and qa["majority_baseline"] + bars.qa_gain
        tiles.append(("question answering", qa["accuracy"], bar, plain.get("qa", {}).get("accuracy")))
    if "mc" in results:
        before = plain.get("mc", {}).get("accuracy")
        tiles.append(("multiple choice", results["mc"]["accuracy"], bars and bars.mc, before))
    return f'<div class="tiles">{"".join(_tile(*tile) for tile in tiles)}</div>' if tiles else ""


def _tile(name: str, value: float, bar: float | None, before: float | None) -> str:
    details = []
    if bar is not None:
        reached = value >= bar
        mark = '<b class="reached">reached</b>' if reached else '<b class="missed">missed</b>'
        details.append(f"bar {bar:.1f} {mark}")
    if before is not None:
        details.append(f"without pre-training {before:.1f}")
    lines = "".join(f"<small>{detail}</small>" for detail in details)
    return f'<div class="tile"><span>{escape(name)}</span><strong>{value:.1f}<i>%</i></strong>{lines}</div>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(
        f'<tr{_row_class(row[0])}><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h3>{escape(table.title)}</h3>\n<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div>\n{note}"
    )


def _row_class(name: str) -> str:
    return ' class="reference"' if name in ("chance", "bar") else ""


def _query(query: Query) -> str:
    videos = "".join(
        f'<figure class="{"video right" if video.right else "video"}">{_strip(video.frames, video.video_id)}'
        f"<figcaption><b>{place}</b> {escape(video.video_id)}<span>{video.score:.2f}</span></figcaption>"
        "</figure>"
        for place, video in enumerate(query.retrieved, 1)
    )
    rank = f"{query.rank:g}"
    return (
        f'<article class="query"><p class="caption">{escape(query.caption)}</p>'
        f'<p class="note">rank of the best right video: {rank}</p>'
        f'<div class="strip-list">{videos}</div></article>'
    )


def _heat_map(heat_map: HeatMap) -> str:
    similarity = np.asarray(heat_map.similarity, np.float64)
    if similarity.shape != (len(heat_map.words), len(heat_map.frames)):
        raise ValueError(
            f"a heat map of {len(heat_map.words)} words and {len(heat_map.frames)} frames cannot have "
            f"similarities of shape {similarity.shape}"
        )
    frames = "".join(f"<td>{_strip(frame[None], f'clip {i}')}</td>" for i, frame in enumerate(heat_map.frames, 1))
    rows = "".join(
        f'<tr><th scope="row">{escape(word)}</th>'
        + "".join(f'<td style="background:{colour}">{value:.2f}</td>' for value, colour in zip(values, colours, strict=True))
        + "</tr>\n"
        for word, values, colours in zip(heat_map.words, similarity, heat_colours(similarity), strict=True)
    )
    return (
        f'<article class="heat"><p class="caption">{escape(heat_map.caption)}</p>'
        f'<p class="note">{escape(heat_map.video_id)}</p><div class="wide"><table>\n'
        f"<tr><th></th>{frames}</tr>\n{rows}</table></div></article>"
    )


def _curves(run: Run) -> str:
    chart = loss_chart(read_curves(run.metrics, run.terms))
    return f"<figure><figcaption>{escape(run.name)}</figcaption>{_image(chart, 'png', run.name)}</figure>"


def _seconds(results: Mapping) -> str:
    seconds = results["seconds"]
    longest = max(max(seconds.values()), 1e-9)
    rows = "".join(
        f'<tr><th scope="row">{escape(stage)}</th>'
        f'<td class="length"><div style="width:{100 * s / longest:.1f}%"></div></td>'
        f"<td>{_duration(s)}</td></tr>\n"
        for stage, s in seconds.items()
    )
    total = _duration(results.get("seconds_in_all", sum(seconds.values())))  # stages can run side by side
    total = f'<tr class="reference"><th scope="row">in all</th><td></td><td>{total}</td></tr>'
    return f'<table class="seconds">\n{rows}{total}</table>'


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def _facts(facts: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items()) + "</dl>"


def _strip(frames: np.ndarray, name: str) -> str:
    return _image(frame_strip(frames), "jpeg", name)


def _image(content: bytes, kind: str, name: str) -> str:
    return f'<img alt="{escape(name)}" src="data:image/{kind};base64,{b64encode(content).decode()}">'
