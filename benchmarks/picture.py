"""Draws where the time goes, from the results of `step.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SIDES = ("torch eager", "ours")


def draw(content: dict[str, Any], file: Path) -> None:
    """Left: the steps' medians; right: the parts of a step with captions of 30 tokens, stacked. PNG or SVG by the name."""
    medians = content["median_s"]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    steps, stacked = figure.subplots(1, 2)
    bars = medians.get("train", {})
    shown = steps.barh(list(bars), list(bars.values()), color=["#888888" if "torch" in name else "#1f77b4" for name in bars])
    steps.bar_label(shown, fmt="%.1f s", padding=3)
    steps.invert_yaxis()
    steps.set(title="Pre-training step, 8 pairs", xlabel="seconds (median)", xlim=(0, 1.2 * max(bars.values(), default=1.0)))
    base = dict.fromkeys(SIDES, 0.0)
    for section, values in medians.items():
        if section.startswith("part: ") and set(SIDES) <= values.keys():
            name = section.removeprefix("part: ")
            stacked.barh(SIDES, [values[side] for side in SIDES], left=list(base.values()), label=name)
            base = {side: base[side] + values[side] for side in SIDES}
    stacked.set(title="Its parts, 30 tokens, forward and backward", xlabel="seconds (median)")
    stacked.invert_yaxis()
    stacked.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
