"""What is shown: the vocabulary of things and motions, the split by composition, and the scenes of a split.

A scene is symbolic (no pixels, no words): one or two things, each with a size, a colour, a shape and a
motion.

The split rule. A pair is (colour + shape, motion); the motion is one of the 11 single motions or an ordered
two-phase motion such as "left, then up". `pair_split` hashes every pair with the seed and gives it to exactly
one split (58 % train, 10 % val, 32 % test). Every thing of every video of a split has a pair of that split.
So a (colour + shape, motion) pair of the test split occurs in no training or validation video in any size, as
one of two objects or alone, while every size, colour, shape and motion by itself does occur in training. A
single phase of a two-phase motion is not a pair of its own: "the red star moves left, then up" may be a test
pair while "the red star moves left" is a training pair.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SIZES = ("small", "large")
COLOURS = ("red", "orange", "yellow", "green", "blue", "pink", "white", "black")
SHAPES = ("square", "triangle", "star", "cross", "heart", "moon")  # none is round: each of them visibly spins
MOTIONS = ("left", "right", "up", "down", "circle", "zigzag", "bounce", "grow", "shrink", "spin", "stay")
PHASES = (
    "left",
    "right",
    "up",
    "down",
    "grow",
    "shrink",
    "spin",
)  # motions that can be half of a two-phase motion

Motion = tuple[str, ...]  # ("left",), or ("left", "up") for "left, then up"
SINGLE_MOTIONS: tuple[Motion, ...] = tuple((m,) for m in MOTIONS)
TWO_PHASE_MOTIONS: tuple[Motion, ...] = tuple(itertools.permutations(PHASES, 2))

SPLITS = ("train", "val", "test")
SHARES = {
    "train": 58,
    "val": 10,
    "test": 32,
}  # of 100; test is large so that 300 of its one-object scenes can all differ

# Five videos in turn: 60 % one object with one motion, 20 % one object with two phases, 20 % two objects.
KINDS = ("single", "phases", "single", "two", "single")


@dataclass(frozen=True, order=True)
class Thing:
    """One object of a scene."""

    size: str
    colour: str
    shape: str
    motion: Motion


@dataclass(frozen=True)
class Scene:
    """One or two things; two differ in (colour, shape) and in their motion, and have no second phase."""

    things: tuple[Thing, ...]


def generator(seed: int, split: str, *key: int) -> np.random.Generator:
    """A random stream of its own for (seed, split, key), the same on every machine and in every process."""
    sequence = np.random.SeedSequence([seed, SPLITS.index(split), *key])
    return np.random.Generator(np.random.Philox(sequence))


def pair_split(seed: int, colour: str, shape: str, motion: Motion) -> str:
    """The split to which the pair (colour + shape, motion) belongs; a pure function of its arguments."""
    text = f"{seed}/{colour} {shape}/{' then '.join(motion)}"
    rank = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % 100
    for split in SPLITS:
        rank -= SHARES[split]
        if rank < 0:
            return split
    raise AssertionError("SHARES must sum to 100")


def allowed_things(seed: int, split: str, motions: tuple[Motion, ...]) -> list[Thing]:
    """Every thing with one of `motions` that a video of `split` may show, in a fixed order."""
    combinations = itertools.product(COLOURS, SHAPES, motions)
    pairs = [pair for pair in combinations if pair_split(seed, *pair) == split]
    return [Thing(size, *pair) for pair in pairs for size in SIZES]


def sample_scenes(seed: int, split: str, count: int) -> list[Scene]:
    """The first `count` scenes of a split.

    One-object scenes are dealt from a shuffled deck of all that the split allows, so none repeats before all
    have been shown; no two two-object scenes are equal. The scenes of a shorter list are the start of a
    longer one.
    """
    rng = generator(seed, split)
    single = allowed_things(seed, split, SINGLE_MOTIONS)
    decks = {
        "single": _deal(single, rng),
        "phases": _deal(allowed_things(seed, split, TWO_PHASE_MOTIONS), rng),
    }
    seen: set[frozenset[Thing]] = set()
    scenes = []
    for _, kind in zip(range(count), itertools.cycle(KINDS), strict=False):
        scenes.append(_two_things(single, seen, rng) if kind == "two" else Scene((next(decks[kind]),)))
    return scenes


def _deal(things: list[Thing], rng: np.random.Generator) -> Iterator[Thing]:
    order = rng.permutation(len(things))
    return itertools.cycle([things[i] for i in order])


def _two_things(things: list[Thing], seen: set[frozenset[Thing]], rng: np.random.Generator) -> Scene:
    """Two things that words can tell apart, not yet in `seen` (which is extended)."""
    while True:
        a, b = (things[i] for i in rng.choice(len(things), size=2, replace=False))
        same_object = (a.colour, a.shape) == (b.colour, b.shape)
        if same_object or a.motion == b.motion or frozenset((a, b)) in seen:
            continue
        seen.add(frozenset((a, b)))
        return Scene((a, b))
