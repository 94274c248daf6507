"""Pixels of a scene: textured backgrounds, the moving shapes, and everything that disturbs (blobs, drift,
flicker, noise).

What is drawn depends on the scene and the generator only. Where the objects are is decided in paths.py,
compression in encode.py. Distractors are soft grey blobs, the background never has a saturated colour:
neither can be taken for an object.
"""

from __future__ import annotations

import numpy as np

from snp_jax.data.toy.paths import Path, draw_paths
from snp_jax.data.toy.scenes import Scene

FRAME_SIZES = ((96, 96), (112, 112), (128, 96), (112, 96), (96, 112))  # width, height; even, as yuv420p needs
FRAME_RATES = (8, 10, 12, 15)
SECONDS = (2.0, 4.0)
RGB = {
    "red": np.array((215, 25, 30), np.float32),
    "orange": np.array((250, 130, 10), np.float32),
    "yellow": np.array((245, 225, 30), np.float32),
    "green": np.array((25, 160, 45), np.float32),
    "blue": np.array((30, 70, 235), np.float32),
    "pink": np.array((250, 115, 195), np.float32),
    "white": np.array((250, 250, 250), np.float32),
    "black": np.array((12, 12, 12), np.float32),
}
_DRIFT = 8  # pixels that the background moves at most to each side
_NOISE_TILE = 16  # spare pixels of the noise tile: each frame cuts out another part


def render_scene(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Draws a scene of 2 to 4 seconds.

    Returns:
        frames uint8 `[T, H, W, 3]` RGB, and the frame rate in frames per second.
    """
    width, height = FRAME_SIZES[int(rng.integers(len(FRAME_SIZES)))]
    fps = int(rng.choice(FRAME_RATES))
    count = int(round(rng.uniform(*SECONDS) * fps))
    paths = draw_paths(scene, width, height, count, rng)
    looks = [(RGB[t.colour] * rng.uniform(0.94, 1.0), t.shape) for t in scene.things]

    canvas = _background(width + 2 * _DRIFT, height + 2 * _DRIFT, rng)
    corners = _drift(count, rng)
    blobs = [_Blob(width, height, rng) for _ in range(int(rng.integers(0, 4)))]
    grain = rng.normal(scale=rng.uniform(1.0, 4.0), size=(height + _NOISE_TILE, width + _NOISE_TILE, 1))
    grain = np.repeat(grain.astype(np.float32), 3, axis=2)  # adding it is 3 times faster than broadcasting
    grain_corners = rng.integers(0, _NOISE_TILE, size=(count, 2))
    gain = 1 + rng.uniform(0, 0.05) * np.sin(rng.uniform(0, 6) + np.arange(count) * rng.uniform(0.3, 2.0))

    frames = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        (left, top), (gx, gy) = corners[i], grain_corners[i]
        frame = canvas[top : top + height, left : left + width].copy()  # [H, W, 3] float32
        for blob in blobs:
            blob.draw(frame, i / count)
        for path, (colour, shape) in zip(paths, looks, strict=True):
            _draw_shape(frame, shape, colour, path, i)
        frame *= np.float32(gain[i])
        frame += grain[gy : gy + height, gx : gx + width]
        np.clip(frame, 0, 255, out=frame)
        frames[i] = frame
    return frames, fps


def _drift(count: int, rng: np.random.Generator) -> np.ndarray:
    """The frame's corner (x, y) on the canvas, int `[T, 2]`: half of the backgrounds slide slowly."""
    speed = rng.uniform(-_DRIFT, _DRIFT, size=2) * (rng.random() < 0.5)
    return np.rint(_DRIFT + np.linspace(-1, 1, count)[:, None] * speed).astype(int)


def _background(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A texture between two muted colours of middling brightness, float32 `[height, width, 3]`."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    period = 2 * np.pi / rng.uniform(12, 36)
    kind = int(rng.integers(4))
    if kind == 0:  # gradient
        mix = (along - along.min()) / np.ptp(along)
    elif kind == 1:  # stripes
        mix = 0.5 + 0.5 * np.sin(along * period)
    elif kind == 2:  # checks
        mix = 0.5 + 0.5 * np.sign(np.sin(along * period) * np.sin(across * period))
    else:  # clouds
        mix = _clouds(width, height, rng)
    mix = 0.75 * mix + 0.25 * _clouds(width, height, rng)
    brightness = rng.uniform(75, 160)
    other = np.clip(brightness + rng.choice((-1, 1)) * rng.uniform(20, 45), 65, 170)
    colours = np.array([[brightness], [other]]) + rng.uniform(-18, 18, size=(2, 3))  # nearly grey
    texture = colours[0] + (colours[1] - colours[0]) * mix[..., None]
    return (texture + rng.normal(scale=rng.uniform(0, 4), size=(height, width, 1))).astype(np.float32)


def _clouds(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in 0..1, `[height, width]`: a coarse random grid, enlarged linearly."""
    cells = int(rng.integers(4, 13))
    grid = rng.random((cells, cells))
    return _enlarge(cells, height) @ grid @ _enlarge(cells, width).T


def _enlarge(cells: int, size: int) -> np.ndarray:
    """The matrix `[size, cells]` of linear interpolation from `cells` points to `size` points."""
    at = np.linspace(0, cells - 1, size)[:, None]
    return np.maximum(0.0, 1.0 - np.abs(at - np.arange(cells)))


class _Blob:
    """A soft grey spot that drifts: a distractor, without an edge and without a colour."""

    def __init__(self, width: int, height: int, rng: np.random.Generator) -> None:
        spread = rng.uniform(2.5, 5.0)
        self._half = int(3 * spread)
        line = np.exp(-0.5 * (np.arange(-self._half, self._half + 1) / spread) ** 2)
        strength = rng.choice((-1, 1)) * rng.uniform(25, 45)
        self._spot = (strength * line[:, None] * line[None, :])[..., None].astype(np.float32)
        size = np.array([width, height])
        self._start = rng.uniform(0, 1, size=2) * size
        self._way = rng.uniform(-0.4, 0.4, size=2) * size

    def draw(self, frame: np.ndarray, time: float) -> None:
        """Adds the spot to `frame` (float32 `[H, W, 3]`, changed) at `time` in 0..1."""
        height, width = frame.shape[:2]
        left, top = np.rint(self._start + time * self._way).astype(int) - self._half
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + self._spot.shape[1], width), min(top + self._spot.shape[0], height)
        if x0 < x1 and y0 < y1:
            frame[y0:y1, x0:x1] += self._spot[y0 - top : y1 - top, x0 - left : x1 - left]


def _draw_shape(frame: np.ndarray, shape: str, colour: np.ndarray, path: Path, i: int) -> None:
    """Paints a shape with a smooth edge over its bounding box in `frame` (float32 `[H, W, 3]`, changed)."""
    height, width = frame.shape[:2]
    cx, cy, radius = path.x[i], path.y[i], path.radius[i]
    reach = 1.3 * radius + 1  # no shape reaches further from its centre, at any angle
    x0, x1 = max(int(cx - reach), 0), min(int(cx + reach) + 2, width)
    y0, y1 = max(int(cy - reach), 0), min(int(cy + reach) + 2, height)
    if x0 >= x1 or y0 >= y1:
        return
    x = (np.arange(x0, x1, dtype=np.float32) - np.float32(cx))[None, :] / np.float32(radius)
    y = (np.arange(y0, y1, dtype=np.float32) - np.float32(cy))[:, None] / np.float32(radius)
    cos, sin = np.float32(np.cos(path.angle[i])), np.float32(np.sin(path.angle[i]))
    distance = OUTLINES[shape](cos * x + sin * y, cos * y - sin * x)  # in radii, negative inside
    cover = np.clip(0.5 - distance * np.float32(radius), 0, 1)[..., None]
    box = frame[y0:y1, x0:x1]
    box += cover * (colour - box)


# Outlines: signed distance (nearly exact at the edge) of points (x, y), y downwards to a shape of radius 1.


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.85


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(0.866 * np.abs(x) - 0.5 * (y - 0.1), y - 0.1) - 0.6


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points: the plane is folded onto half a ray of the star, whose edge is one straight line."""
    step = 2 * np.pi / 5
    angle = np.arctan2(x, -y)
    folded = np.abs((angle + step / 2) % step - step / 2)  # 0 on a point, step / 2 in a notch
    r = np.hypot(x, y)
    tip, notch = 1.2, 0.52
    edge = np.array([notch * np.cos(step / 2) - tip, notch * np.sin(step / 2)])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (r * np.cos(folded) - tip) * np.float32(normal[0]) + r * np.sin(folded) * np.float32(normal[1])


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ax, ay = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(ax - 1.05, ay - 0.32), np.maximum(ax - 0.32, ay - 1.05))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two discs on top of a wedge with its tip at the bottom."""
    ax = np.abs(x)
    disc = np.hypot(ax - 0.5, y + 0.35) - 0.58
    wedge = np.maximum(0.75 * ax + 0.6614 * (y - 1.05), -(y + 0.3))
    return np.minimum(disc, wedge)


def _moon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A disc with a bite taken out of its right side."""
    return np.maximum(np.hypot(x, y) - 1.05, 0.8 - np.hypot(x - 0.55, y))


OUTLINES = {
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "moon": _moon,
}
