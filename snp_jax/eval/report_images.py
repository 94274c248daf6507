"""Pictures of the report as bytes: loss curves (PNG), strips of video frames (JPEG), colours of a heat map.

No HTML here; `report` places the pictures.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from snp_jax.errors import UserError

# Blue, orange, green, purple, red, brown, pink: apart for most colour-blind readers, in this order.
LINE_COLOURS = ("#3266ad", "#e08a1e", "#2e8b57", "#8457a5", "#c0392b", "#7a5c43", "#cf6fa5")
_COLD, _WARM = (
    np.array([50, 102, 173.0]),
    np.array([224, 122, 20.0]),
)  # ends of the heat map, white between them
_GAP = 2  # pixels between the frames of a strip
SMOOTHING = 0.03  # share of a curve that its moving average spans

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


def read_curves(path: str | Path, terms: Sequence[str] | None = None) -> Curves:
    """Loss curves of a run's `metrics.jsonl`.

    Args:
      path: lines of {"step": int, name: number, ...}; a last line cut off by a kill is left out.
      terms: names to draw; None = "loss" and all names that start with "loss/".

    Returns: name -> (steps int [n], values float [n]), the steps where it was written.

    Raises:
      UserError: the file cannot be read, or holds none of the terms.
    """
    try:
        texts = Path(path).read_text().splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot read the loss curves ({error.strerror}); train first") from error
    points: dict[str, list[tuple[int, float]]] = {}
    for text in texts:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        for name, value in line.items():
            wanted = name == "loss" or name.startswith("loss/") if terms is None else name in terms
            if wanted and isinstance(value, (int, float)):
                points.setdefault(name, []).append((line["step"], value))
    if not points:
        raise UserError(f"{path}: no loss was written ({', '.join(terms or ['loss'])}); check the names of the terms")
    names = [name for name in terms if name in points] if terms is not None else list(points)
    return {name: tuple(map(np.array, zip(*points[name], strict=True))) for name in names}


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over `SMOOTHING` of the curve, narrower at its ends; same length."""
    reach = int(len(values) * SMOOTHING / 2)
    places = np.arange(len(values))
    reaches = np.minimum(reach, np.minimum(places, len(values) - 1 - places))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[places + reaches + 1] - sums[places - reaches]) / (2 * reaches + 1)


def loss_chart(curves: Curves) -> bytes:
    """A PNG with all curves of a run: the smoothed one in full colour over the faint measured one."""
    # Imported here: it takes a second, and evaluation alone draws nothing. The figure is made without pyplot,
    # so that no window system and no global state is involved.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for i, (name, (steps, values)) in enumerate(curves.items()):
        colour = LINE_COLOURS[i % len(LINE_COLOURS)]
        axes.plot(steps, values, color=colour, alpha=0.18, linewidth=0.8)
        axes.plot(steps, smooth(values), color=colour, linewidth=1.7, label=name.removeprefix("loss/"))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=min(0.0, *(float(np.nanmin(values)) for _, values in curves.values())))
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=2 if len(curves) > 4 else 1)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()


def frame_strip(frames: np.ndarray, *, max_frames: int = 6, height: int = 72) -> bytes:
    """Frames side by side as one JPEG.

    Args:
      frames: uint8 [N, H, W, 3].
      max_frames: so many are shown, evenly chosen.
      height: of the strip in pixels; smaller frames are not enlarged.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be uint8 [N, H, W, 3] with N > 0, got {frames.dtype} {frames.shape}")
    count = min(len(frames), max_frames)
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    height = min(height, chosen.shape[1])
    width = max(1, round(chosen.shape[2] * height / chosen.shape[1]))
    strip = Image.new("RGB", (count * (width + _GAP) - _GAP, height), "white")
    for i, frame in enumerate(chosen):
        strip.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS), (i * (width + _GAP), 0))
    out = io.BytesIO()
    strip.save(out, "JPEG", quality=82)
    return out.getvalue()


def heat_colours(similarity: np.ndarray) -> list[list[str]]:
    """CSS colours of a [K, N] heat map: each row's deviation from its mean, on one scale for the whole map.

    A word's similarities differ from another word's by a constant that says nothing about place, which the
    row's mean takes away; one common scale keeps a word that matches no clip better than another pale.
    """
    deviation = similarity - similarity.mean(axis=1, keepdims=True)
    deviation = deviation / max(float(np.abs(deviation).max()), 1e-9)  # [-1, 1]
    ends = np.where(deviation[..., None] < 0, _COLD, _WARM)  # [K, N, 3]
    colours = 255 + (ends - 255) * np.abs(deviation)[..., None] * 0.85
    return [["#{:02x}{:02x}{:02x}".format(*cell.round().astype(int)) for cell in row] for row in colours]
