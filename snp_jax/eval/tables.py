"""results.json as tables of text cells, for `tools/eval.py`, the quickstart and the HTML report.

Keys of a result (each may be missing: one task can be evaluated alone):

    retrieval: {gallery, t2v: {r1, r5, r10, mdr}, v2t: {...}, stage1: {t2v, v2t},
                stage2_candidates, several_correct}
    qa: {accuracy, majority_baseline, by_kind}
    mc: {accuracy}
    no_pretraining: {the same}
    seconds: {stage: s}, seconds_in_all: s (stages can run side by side)

`retrieval.t2v` and `.v2t` are stage 2; `stage2_candidates` says how many candidates of stage 1 were re-ranked
(the gallery's size = all pairs); `several_correct` how many captions fit several videos.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from snp_jax.eval.metrics import chance_level

_DIRECTIONS = (("t2v", "text to video"), ("v2t", "video to text"))
_COLUMNS = (("r1", "R@1"), ("r5", "R@5"), ("r10", "R@10"), ("mdr", "MdR"))
NOTHING = "-"


@dataclass(frozen=True)
class Bars:
    """What a run is expected to reach, in percent; `qa_gain` in points over the majority baseline."""

    t2v_r1: float
    t2v_r10: float
    qa_gain: float
    mc: float


@dataclass(frozen=True)
class Table:
    """A titled table of text cells. The first column names the row, the others hold numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def result_tables(results: Mapping, bars: Bars | None = None) -> list[Table]:
    """The tables of whatever `results` holds: retrieval, then question answering and multiple choice."""
    tables = []
    if "retrieval" in results:
        tables.append(_retrieval_table(results, bars))
    if "qa" in results or "mc" in results:
        tables.append(_accuracy_table(results, bars))
    if "by_kind" in results.get("qa", {}):
        rows = tuple((kind, _number(value)) for kind, value in results["qa"]["by_kind"].items())
        tables.append(Table("Question answering by kind, accuracy in %", ("kind", "accuracy"), rows))
    return tables


def format_table(table: Table) -> str:
    """Title, header, rule and rows with aligned columns (names left, numbers right), ready to print."""
    lines = (table.header, *table.rows)
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    parts = [table.title, text[0], "-" * len(text[0]), *text[1:]]
    return "\n".join([*parts, table.note] if table.note else parts)


def format_results(results: Mapping, bars: Bars | None = None) -> str:
    """All tables of a result as text, an empty line between them."""
    return "\n\n".join(format_table(table) for table in result_tables(results, bars))


def _retrieval_table(results: Mapping, bars: Bars | None) -> Table:
    retrieval = results["retrieval"]
    gallery = retrieval["gallery"]
    header = ("", *(f"{direction} {name}" for direction, _ in _DIRECTIONS for _, name in _COLUMNS))
    rows = [(label, *_recall_cells(stages)) for label, stages in _stages(results)]
    chance = chance_level(gallery)
    rows.append(("chance", *_recall_cells({"t2v": chance, "v2t": chance})))
    if bars is not None:
        rows.append(("bar", *_recall_cells({"t2v": {"r1": bars.t2v_r1, "r10": bars.t2v_r10}})))
    notes = [f"{direction} = {meaning}" for direction, meaning in _DIRECTIONS]
    candidates = retrieval.get("stage2_candidates")
    if candidates is not None:
        covered = "all pairs" if candidates >= gallery else f"the best {candidates} of stage 1"
        notes.append(f"stage 2 scores {covered}")
    if "several_correct" in retrieval:
        notes.append(f"{retrieval['several_correct']:,} captions fit several videos and count all of them as correct")
    title = f"Retrieval among {gallery} videos, recall in %"
    return Table(title, header, tuple(rows), "; ".join(notes) + ".")


def _stages(results: Mapping) -> Iterator[tuple[str, Mapping]]:
    plain = results.get("no_pretraining", {}).get("retrieval", {})
    for name, key in (("stage 2", None), ("stage 1", "stage1")):
        for label, retrieval in ((name, results["retrieval"]), (f"{name}, no pre-training", plain)):
            stages = retrieval if key is None else retrieval.get(key, {})
            if "t2v" in stages or "v2t" in stages:
                yield label, stages


def _accuracy_table(results: Mapping, bars: Bars | None) -> Table:
    plain = results.get("no_pretraining", {})
    rows = []
    if "qa" in results:
        baseline = results["qa"].get("majority_baseline")
        bar = None if bars is None or baseline is None else baseline + bars.qa_gain
        accuracies = (results["qa"]["accuracy"], plain.get("qa", {}).get("accuracy"), baseline, bar)
        rows.append(("question answering", *map(_number, accuracies)))
    if "mc" in results:
        chance = 100 / results["mc"].get("options", 5)
        bar = None if bars is None else bars.mc
        accuracies = (results["mc"]["accuracy"], plain.get("mc", {}).get("accuracy"), chance, bar)
        rows.append(("multiple choice", *map(_number, accuracies)))
    header = ("", "accuracy", "no pre-training", "baseline", "bar")
    note = "Baseline: the most frequent training answer (question answering), chance (multiple choice)."
    return Table("Accuracy in %", header, tuple(rows), note)


def _recall_cells(stages: Mapping) -> Sequence[str]:
    return [_number(stages.get(direction, {}).get(key)) for direction, _ in _DIRECTIONS for key, _ in _COLUMNS]


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"
