"""Where the objects of a scene are in every frame: trajectories, sizes and angles over time. No pixels are
drawn here.

Every motion is built from offsets in the room that the frame leaves for the object's centre; the start is
then drawn from all places from which the motion stays in the frame. Two objects are drawn again until they do
not touch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snp_jax.data.toy.scenes import Scene, Thing

RADIUS = {"small": 0.115, "large": 0.205}  # of the shorter side of the frame, for a scene with one object
TWO_OBJECT_SHRINK = 0.88
SCALES = {"grow": (0.5, 1.3), "shrink": (1.3, 0.5)}  # radius at the start and the end, in units of RADIUS
# Turns of a spin, by the number of phases. A cross looks the same after 1/4 of a turn, a star after 1/5:
# the steps between 8 sampled frames must stay well below those.
TURNS = {1: (0.6, 0.85), 2: (0.4, 0.55)}
_EDGE = 0.85  # centres stay this many radii from the edge: travel far, but be cut off only a little
_TRIES = 160


@dataclass(frozen=True)
class Path:
    """One object over T frames; all arrays float64 `[T]`."""

    x: np.ndarray  # pixels, of the centre
    y: np.ndarray  # pixels, downwards
    radius: np.ndarray  # pixels
    angle: np.ndarray  # radians


def draw_paths(scene: Scene, width: int, height: int, frames: int, rng: np.random.Generator) -> list[Path]:
    """A path for every thing of the scene, frame size in pixels; two objects keep apart (see `_gap`)."""
    share = 1.0 if len(scene.things) == 1 else TWO_OBJECT_SHRINK
    best, best_gap = [], -np.inf
    for attempt in range(_TRIES):
        reach = 1.0 - 0.35 * attempt / _TRIES  # shorter ways the longer no place is found
        paths = [_path(t, width, height, frames, share, reach, rng) for t in scene.things]
        if len(paths) == 1:
            return paths
        gap = _gap(*paths)
        if gap > best_gap:
            best, best_gap = paths, gap
        if best_gap > 0:
            break
    return best


def _gap(a: Path, b: Path) -> float:
    """The least distance of the outlines over all frames, pixels (shapes fill about 0.9 of their radius)."""
    return float((np.hypot(a.x - b.x, a.y - b.y) - 0.9 * (a.radius + b.radius)).min())


def _path(thing: Thing, width: int, height: int, frames: int, share: float, reach: float, rng: np.random.Generator) -> Path:
    u = np.linspace(0.0, 1.0, frames)
    u = u + rng.uniform(-0.12, 0.12) * np.sin(2 * np.pi * u) / (2 * np.pi)  # nearly uniform speed
    phases = len(thing.motion)
    parts = [(m, np.clip(u * phases - k, 0.0, 1.0)) for k, m in enumerate(thing.motion)]

    scale = _scale(parts)
    radius = RADIUS[thing.size] * share * min(width, height) * rng.uniform(0.95, 1.05)
    edge = _EDGE * radius * scale.max()
    room = np.array([width, height]) - 2 * edge  # of the centre, x and y, pixels

    offset = sum(_offset(m, t, room, reach, rng) for m, t in parts)  # [T, 2]
    least, most = offset.min(axis=0), offset.max(axis=0)
    start = edge - least + rng.uniform(size=2) * np.maximum(room - (most - least), 0.0)
    x, y = (start + offset + rng.normal(scale=0.15, size=offset.shape)).T
    turn = rng.choice((-1.0, 1.0)) * rng.uniform(*TURNS[phases]) * 2 * np.pi
    angle = rng.uniform(-0.15, 0.15) + sum(turn * t for m, t in parts if m == "spin")
    return Path(x, y, radius * scale, angle + np.zeros(frames))


def _scale(parts: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """Radius over time in units of the nominal one; a phase that changes none keeps its neighbour's."""
    curves = [SCALES[m][0] + (SCALES[m][1] - SCALES[m][0]) * t for m, t in parts if m in SCALES]
    if not curves:
        return np.ones_like(parts[0][1])
    if len(curves) == 1:
        return curves[0]
    return np.where(parts[0][1] < 1.0, *curves)


def _offset(motion: str, t: np.ndarray, room: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    """The way of the centre from its start, pixels `[T, 2]` (x, y), for time `t` in 0..1."""
    still = np.zeros_like(t)
    if motion in ("left", "right"):
        way = t * room[0] * reach * rng.uniform(0.85, 1.0)
        return np.stack([way if motion == "right" else -way, still], axis=1)
    if motion in ("up", "down"):
        way = t * room[1] * reach * rng.uniform(0.85, 1.0)
        return np.stack([still, way if motion == "down" else -way], axis=1)
    if motion == "circle":
        phase = rng.uniform(0, 2 * np.pi) + rng.choice((-1, 1)) * rng.uniform(1.0, 1.4) * 2 * np.pi * t
        size = 0.5 * room.min() * reach * rng.uniform(0.8, 1.0)
        return size * np.stack([np.cos(phase), np.sin(phase)], axis=1)
    if motion == "zigzag":
        way = rng.choice((-1, 1)) * t * room[0] * reach * rng.uniform(0.85, 1.0)
        legs = rng.uniform(3.0, 4.5)
        wave = np.abs((legs * t + rng.uniform(0, 2)) % 2 - 1)  # triangle wave in 0..1, `legs` straight legs
        return np.stack([way, wave * room[1] * reach * rng.uniform(0.5, 0.85)], axis=1)
    if motion == "bounce":
        hops = rng.uniform(2.0, 3.2)
        height = 1 - (2 * ((hops * t + rng.uniform(0, 1)) % 1) - 1) ** 2  # parabolas in 0..1
        return np.stack([still, -height * room[1] * reach * rng.uniform(0.65, 0.95)], axis=1)
    return np.stack([still, still], axis=1)  # grow, shrink, spin and stay happen on the spot
