"""The README.md that lies beside the toy corpus: what it is, its language, the split rule, its counts."""

from __future__ import annotations

from collections.abc import Mapping

from snp_jax.data.toy.scenes import COLOURS, MOTIONS, PHASES, SHAPES, SHARES, SIZES, Scene

_TEMPLATE = """# Toy corpus (seed {seed})

Made by `python -m snp_jax.data.toy --out DIR --seed {seed}`. Nothing here was recorded or downloaded. It is a
folder dataset like any other: `videos/*.mp4` and one JSON line per video in `train.jsonl`, `val.jsonl` and
`test.jsonl`.

## What is shown

H.264 (yuv420p), 2 to 4 s, 8 to 15 frames per second, 96 to 128 pixels a side. One or two shapes move over a
textured background; soft grey blobs, background drift, flicker, sensor noise and compression are distractors
that no text mentions.

- sizes: {sizes}; with grow and shrink the radius goes between 0.5 and 1.3 times that of the size
- colours: {colours}
- shapes: {shapes}
- motions: {motions}
- 60 % one shape with one motion; 20 % one shape with two different phases out of {phases}
  ("moves left, then up"); 20 % two shapes, each with a motion of its own

Left and right are the viewer's: a flipped video no longer fits its captions.

## Language

English, lower case, five captions a video. `captions[0]` says everything (size, colour, shape and motion of
every object), `captions[1]` all but the sizes, the others may leave out more or mention one of two objects
only. `fits` lists for each caption the other videos of the split of which all it says is true: every
mentioned object is matched with an object of its own, what is not said does not matter (a second object
neither), and a two-phase motion counts as a whole ("moves left" does not fit "left, then up").

Questions (kinds colour, shape, motion, count, order) have one-word answers. Of the five options exactly one
is true; (right object, wrong motion), (wrong object, right motion) and (both wrong) are always among the
others, chosen so that the options alone do not give the answer away.

## Splits

By composition. A pair is (colour + shape, motion), where an ordered two-phase motion counts as one motion.
Each pair is given to one split by a hash of (seed, pair): {shares}. Every object of every video has a pair of
the video's split, so the pairs of the test split occur in no training or validation video, in any size, alone
or beside another object; every size, colour, shape and motion by itself does occur in training. A phase by
itself is no pair: "red star, left, then up" may be a test pair while "red star, left" is a training pair.

| split | videos | different scenes | one motion | two phases | two objects | (object, motion) pairs |
|---|---|---|---|---|---|---|
{rows}
"""


def corpus_readme(seed: int, scenes: Mapping[str, list[Scene]]) -> str:
    """The text of README.md for the corpus of `seed` with these scenes per split."""
    return _TEMPLATE.format(
        seed=seed,
        sizes=", ".join(SIZES),
        colours=", ".join(COLOURS),
        shapes=", ".join(SHAPES),
        motions=", ".join(MOTIONS),
        phases=", ".join(PHASES),
        shares=", ".join(f"{percent} % {split}" for split, percent in SHARES.items()),
        rows="\n".join(_count_row(split, listed) for split, listed in scenes.items()),
    )


def _count_row(split: str, scenes: list[Scene]) -> str:
    two = sum(len(s.things) == 2 for s in scenes)
    phases = sum(len(s.things[0].motion) == 2 for s in scenes)
    pairs = {(t.colour, t.shape, t.motion) for s in scenes for t in s.things}
    cells = (split, len(scenes), len(set(scenes)), len(scenes) - two - phases, phases, two, len(pairs))
    return "| " + " | ".join(map(str, cells)) + " |"
