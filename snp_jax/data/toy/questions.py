"""Question-answer pairs and the five-way multiple choice of a scene. Words for motions come from captions.py.

Answers are single words: a colour, a shape, a motion of `scenes.MOTIONS`, "one" or "two". Every question has
one answer given the video: an object is referred to by what only it has among the objects of its video.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from snp_jax.data.toy.captions import THING_WORDS, WAYS, phrase, pick
from snp_jax.data.toy.facts import Facts, Mention, describes, full_facts
from snp_jax.data.toy.scenes import COLOURS, MOTIONS, PHASES, SHAPES, Motion, Scene, Thing

T = TypeVar("T")

OPTIONS = 5
_TRIES = 60  # draws of a wrong option before one of other splits will do
COUNT_SHARE = 0.4  # of the one-object videos get the count question (all others do): "one" is no safe bet

_MOTION = ("how does the {o} move?", "what does the {o} do?", "what is the motion of the {o}?")
_COUNT = ("how many shapes are there?", "how many shapes do we see?", "what is the number of shapes?")
_FIRST = ("what does the {o} do first?", "how does the {o} move first?", "what does the {o} do at the start?")
_LAST = ("what does the {o} do last?", "how does the {o} move last?", "what does the {o} do at the end?")


def write_questions(scene: Scene, rng: np.random.Generator) -> list[dict[str, str]]:
    """Four or five {"question", "answer", "kind"}; kinds colour, shape, motion, count, order."""
    first, last = scene.things[0], scene.things[-1]
    if rng.random() < 0.5:
        first, last = last, first
    asked = [_ask_colour(scene, first, rng), _ask_shape(scene, last, rng)]
    if len(first.motion) == 2:
        asked += _ask_order(scene, first, rng)
    else:
        asked.append(_ask_motion(scene, first, rng))
        ask_more = _ask_motion if len(scene.things) == 2 else pick((_ask_colour, _ask_shape), rng)
        asked.append(_ask_another(ask_more, scene, last, {row["question"] for row in asked}, rng))
    if len(scene.things) == 2 or rng.random() < COUNT_SHARE:
        asked.append(_row("count", pick(_COUNT, rng), ("one", "two")[len(scene.things) - 1]))
    return asked


def _row(kind: str, question: str, answer: str) -> dict[str, str]:
    return {"question": question, "answer": answer, "kind": kind}


def _ask_another(ask: Callable, scene: Scene, thing: Thing, asked: set[str], rng: np.random.Generator) -> dict[str, str]:
    """A question by `ask` that is not among `asked`."""
    while (row := ask(scene, thing, rng))["question"] in asked:
        pass
    return row


def _ask_colour(scene: Scene, thing: Thing, rng: np.random.Generator) -> dict[str, str]:
    return _row("colour", f"what colour is the {_reference(scene, thing, 'colour', rng)}?", thing.colour)


def _ask_shape(scene: Scene, thing: Thing, rng: np.random.Generator) -> dict[str, str]:
    return _row("shape", f"what shape is the {_reference(scene, thing, 'shape', rng)}?", thing.shape)


def _ask_motion(scene: Scene, thing: Thing, rng: np.random.Generator) -> dict[str, str]:
    return _row("motion", pick(_MOTION, rng).format(o=_reference(scene, thing, "motion", rng)), thing.motion[0])


def _ask_order(scene: Scene, thing: Thing, rng: np.random.Generator) -> list[dict[str, str]]:
    """A question for each phase: by its place ("first", "last") or by the other one ("after moving left")."""
    rows = []
    other_phases = (("before", 1), ("after", 0))
    for answer, places, (word, other) in zip(thing.motion, (_FIRST, _LAST), other_phases, strict=True):
        name = _reference(scene, thing, "motion", rng)
        if rng.random() < 0.5:
            question = pick(places, rng).format(o=name)
        else:
            question = f"what does the {name} do {word} {pick(WAYS[thing.motion[other]], rng)[1]}?"
        rows.append(_row("order", question, answer))
    return rows


def _reference(scene: Scene, thing: Thing, asked: str, rng: np.random.Generator) -> str:
    """A noun phrase that fits only `thing` in its scene and does not give the asked attribute away."""
    others = [t for t in scene.things if t is not thing]
    ways = []
    if asked != "shape" and all(t.shape != thing.shape for t in others):
        ways.append(thing.shape)
    if asked != "colour" and all(t.colour != thing.colour for t in others):
        ways.append(f"{thing.colour} {pick(THING_WORDS[:2], rng)}")
    if asked == "motion":
        ways.append(f"{thing.colour} {thing.shape}")
    elif len(thing.motion) == 1:  # two things never share a motion
        ways.append(f"{pick(THING_WORDS[:2], rng)} that {pick(WAYS[thing.motion[0]], rng)[0]}")
    return pick(ways, rng)


def write_choice(scene: Scene, belongs: Callable[[Facts], bool], rng: np.random.Generator) -> tuple[list[str], int]:
    """Five captions of which exactly one is true of the scene, and its index (uniform).

    With O the right objects, M the right motions, and O', M', O'', M'' wrong ones, the options are (O, M),
    (O, M'), (O', M), (O', M') and (O'', M''): the words alone do not tell which of the first four is right.
    `belongs` says whether all pairs of some facts belong to the split of the scene; options that do are
    preferred, since otherwise "a pair that is familiar from training" would be a hint. All options mention
    the sizes or none does.
    """
    facts = full_facts(scene)
    if rng.random() < 0.5:
        facts = tuple(replace(m, size=None) for m in facts)
    options = [facts, *_wrong_facts(facts, belongs, rng)]
    if any(describes(wrong, scene) for wrong in options[1:]):
        raise AssertionError(f"a wrong option is true of {scene}: {options}")
    texts = [phrase(f, rng) for f in options]
    order = rng.permutation(OPTIONS)
    return [texts[i] for i in order], int(np.flatnonzero(order == 0)[0])


def _wrong_facts(facts: Facts, belongs: Callable[[Facts], bool], rng: np.random.Generator) -> list[Facts]:
    """(O, M'), (O', M), (O', M') and (O'', M'') of `write_choice`, for `facts` = (O, M)."""
    motions = tuple(m.motion for m in facts)

    def swap(objects: Facts, other: tuple[Motion, ...]) -> Facts:
        return tuple(replace(mention, motion=motion) for mention, motion in zip(objects, other, strict=True))

    motions_1 = _search(lambda: _other_motions(motions, rng), lambda m: belongs(swap(facts, m)))
    objects_1 = _search(
        lambda: _other_objects(facts, rng),
        lambda objects: belongs(objects) and belongs(swap(objects, motions_1)),
    )
    taken = (_names(facts), _names(objects_1))

    def fifth() -> Facts | None:  # starts from either of the others, so that it is no closer to the right one
        objects_2 = _other_objects(pick((facts, objects_1), rng), rng)
        motions_2 = _other_motions(pick((motions, motions_1), rng), rng)
        usable = _names(objects_2) not in taken and motions_2 not in (motions, motions_1)
        return swap(objects_2, motions_2) if usable else None

    return [swap(facts, motions_1), objects_1, swap(objects_1, motions_1), _search(fifth, belongs)]


def _search(draw: Callable[[], T | None], preferred: Callable[[T], bool]) -> T:
    """The first preferred one of some draws; if there is none, the first usable (not None) one after them."""
    for attempt in itertools.count():
        drawn = draw()
        if drawn is not None and (attempt >= _TRIES or preferred(drawn)):
            return drawn
    raise AssertionError("unreachable")


def _names(facts: Facts) -> list[tuple[str | None, str | None]]:
    return [(m.colour, m.shape) for m in facts]


def _other_objects(facts: Facts, rng: np.random.Generator) -> Facts:
    """The facts with one object changed: its colour, its shape or both; two objects stay different."""
    changed = int(rng.integers(len(facts)))
    while True:
        what = int(rng.integers(3))
        colour = pick(COLOURS, rng) if what != 0 else facts[changed].colour
        shape = pick(SHAPES, rng) if what != 1 else facts[changed].shape
        if all((m.colour, m.shape) != (colour, shape) for m in facts):
            break
    new: Mention = replace(facts[changed], colour=colour, shape=shape)
    return (*facts[:changed], new, *facts[changed + 1 :])


def _other_motions(motions: tuple[Motion, ...], rng: np.random.Generator) -> tuple[Motion, ...]:
    """Wrong motions of the same form: swapped or reversed in half of the draws, else one replaced."""
    flat = [m for motion in motions for m in motion]
    if len(flat) == 2 and rng.random() < 0.5:
        flat.reverse()
    else:
        choices = PHASES if len(motions[0]) == 2 else MOTIONS
        flat[int(rng.integers(len(flat)))] = pick([m for m in choices if m not in flat], rng)
    return tuple((m,) for m in flat) if len(motions[0]) == 1 else (tuple(flat),)
