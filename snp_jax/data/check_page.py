"""The page of a dataset's report: one HTML file without anything from elsewhere."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from snp_jax.data import decode, sampling
from snp_jax.data.check import DatasetReport, Overlap, SplitReport
from snp_jax.data.sources.prepared import Record, open_source

_FRAMES, _HEIGHT = 4, 108  # of a sample
_SHOWN_CAPTIONS = 4
_STYLE = """
.bars { display: flex; align-items: flex-end; gap: 2px; height: 90px; margin: 8px 0 2px; }
.bars i { flex: 1; background: var(--blue); border-radius: 2px 2px 0 0; min-height: 1px; }
.scale { display: flex; justify-content: space-between; color: var(--soft); font-size: 0.8rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 8px 28px; }
.wide > table { width: 100%; } td:first-child, th:first-child, .last td:last-child, .last th:last-child { text-align: left; }
.last td:last-child { white-space: normal; overflow-wrap: anywhere; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 16px; }
.samples figure { margin: 0; } .samples img { width: 100%; border-radius: 8px; display: block; }
.samples figcaption { font-size: 0.85rem; overflow-wrap: anywhere; } .samples ul { margin: 2px 0; padding-left: 18px; }
.samples b { color: var(--soft); font-weight: 500; }
"""


def page(report: DatasetReport, style: str) -> str:
    """The HTML.

    Args:
        report: of `check.check_dataset`; its dataset must still be there (frames are taken from it).
        style: CSS that defines the colours.
    """
    sections = "".join(_split(report, name, split) for name, split in report.splits.items())
    name = escape(report.directory.rstrip("/").rsplit("/", 1)[-1])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}{_STYLE}</style></head><body><main>'
        f"<header><h1>{name}</h1><p>{escape(report.directory)}</p></header>{_tiles(report)}"
        f"{_overlaps(report.overlaps)}{sections}</main></body></html>\n"
    )


def _tiles(report: DatasetReport) -> str:
    splits = report.splits.values()
    broken = sum(sum(split.broken.values()) for split in splits)
    shared = sum(overlap.files for overlap in report.overlaps)
    tiles = (
        ("examples", sum(split.examples for split in splits), ""),
        ("captions and questions", sum(split.captions for split in splits), ""),
        ("broken or missing", broken, "missed" if broken else "reached"),
        ("files in two splits", shared, "missed" if shared else "reached"),
    )
    cells = (
        f'<div class="tile"><span>{label}</span><strong class="{kind}">{number:,}</strong></div>'
        for label, number, kind in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _overlaps(overlaps: list[Overlap]) -> str:
    if not overlaps:
        return ""
    rows = [
        (f"{one.first} and {one.second}", f"{one.ids:,}", f"{one.files:,}", f"{one.captions:,}",
         "; ".join(" = ".join(pair) for pair in one.examples[:3]))
        for one in overlaps
    ]  # fmt: skip
    head = ("splits", "same id", "same file", "same text", "for example")
    note = "Identical files and ids in two splits are leaks. Short captions and questions recur by chance."
    return f'<section class="last"><h2>Duplicates between splits</h2><p class="note">{note}</p>{_table(head, rows)}</section>'


def _split(report: DatasetReport, name: str, split: SplitReport) -> str:
    facts = [
        ("examples", f"{split.examples:,}"),
        ("still images", f"{split.images:,}"),
        ("captions and questions", f"{split.captions:,}"),
        ("those that recur", f"{split.repeated:,}"),
        ("groups of identical files", f"{len(split.same_file):,}"),
    ]
    sizes = [(size, f"{count:,}") for size, count in list(split.sizes.items())[:8]]
    broken = [(reason, f"{count:,}") for reason, count in split.broken.items()]
    named = [(video_id, reason) for video_id, reason in split.broken_names.items()]
    return (
        f"<section><h2>{escape(name)}</h2><div class='two'>"
        f"<div>{_table(('', ''), facts)}</div><div>{_table(('width x height', 'examples'), sizes)}</div>"
        f"<div><h3>Length in seconds</h3>{_bars(split.lengths)}{_spread(split.seconds)}</div>"
        f"<div><h3>Words per caption or question</h3>{_bars(split.words)}{_spread(split.words_per_caption)}</div></div>"
        + (f"<h3>Broken</h3><div class='two'><div>{_table(('reason', 'files'), broken)}</div>" if broken else "")
        + (f"<div class='last'>{_table(('id', 'reason'), named)}</div></div>" if broken else "")
        + f"<h3>Samples</h3><div class='samples'>{_samples(report, name, split)}</div></section>"
    )


def _samples(report: DatasetReport, name: str, split: SplitReport) -> str:
    source = open_source(report.directory, name)
    return "".join(_sample(source[row]) for row in split.samples)


def _sample(record: Record) -> str:
    note = record.annotation
    texts = [*note.captions, *(f"{question.question} – {question.answer}" for question in note.questions)]
    texts += [f"{'✓' if i == note.option_answer else '·'} {option}" for i, option in enumerate(note.options)]
    more = [f"and {len(texts) - _SHOWN_CAPTIONS} more"] if len(texts) > _SHOWN_CAPTIONS + 1 else []
    shown = texts[:_SHOWN_CAPTIONS] + more if more else texts
    listed = "".join(f"<li>{escape(text)}</li>" for text in shown)
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(_strip(record)).decode()}">'
        f"<figcaption><b>{escape(note.video_id)}</b><ul>{listed}</ul></figcaption></figure>"
    )


def _strip(record: Record) -> bytes:
    """Frames side by side, in the shape of the video, as a JPEG."""
    seen = decode.probe(record.video)
    width = max(16, min(3 * _HEIGHT, round(_HEIGHT * seen.width / max(seen.height, 1))))
    count = 1 if seen.image else _FRAMES
    choose = sampling.middle_frames(count).indices
    note = record.annotation
    frames = decode.decode_clip(record.video, choose, (_HEIGHT, width), start=note.start, end=note.end)
    strip = Image.fromarray(np.concatenate(list(frames), axis=1))
    out = io.BytesIO()
    strip.save(out, "JPEG", quality=80)
    return out.getvalue()


def _bars(histogram: list[list[float]]) -> str:
    if not histogram:
        return '<p class="note">none</p>'
    top = max(count for _, _, count in histogram)
    bars = "".join(
        f'<i style="height:{100 * count / top:.1f}%" title="{start:g} to {end:g}: {count:,.0f}"></i>'
        for start, end, count in histogram
    )
    ends = f"<span>{histogram[0][0]:g}</span><span>{histogram[-1][1]:.3g} and more</span>"
    return f'<div class="bars">{bars}</div><div class="scale">{ends}</div>'


def _spread(quantiles: list[float]) -> str:
    if not quantiles:
        return ""
    low, _, _, middle, _, high, top = quantiles
    return f'<p class="note">minimum {low:g}, median {middle:g}, 95 % up to {high:g}, maximum {top:g}</p>'


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>{f"<tr>{titles}</tr>" if any(head) else ""}{lines}</table></div>'
