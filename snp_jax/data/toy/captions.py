"""English for scenes: synonyms, templates, and the five paraphrased captions of a video.

Facts go in, words come out; which scenes the facts fit is decided in facts.py. All text is lower case.
`phrase` draws everything from the generator it is given, so the same generator gives the same words.
"""

from __future__ import annotations

import numpy as np

from snp_jax.data.toy.facts import Facts, Mention, full_facts
from snp_jax.data.toy.scenes import Scene

CAPTIONS_PER_VIDEO = 5

SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
THING_WORDS = ("object", "thing", "shape")  # when the shape is not said

_GO = (
    ("moves", "moving"),
    ("slides", "sliding"),
    ("drifts", "drifting"),
    ("glides", "gliding"),
    ("goes", "going"),
)
_WHERE = {
    "left": ("left", "to the left", "leftwards", "towards the left"),
    "right": ("right", "to the right", "rightwards", "towards the right"),
    "up": ("up", "upwards", "towards the top"),
    "down": ("down", "downwards", "towards the bottom"),
}
# motion -> ways to say it, each as (third person, -ing form)
WAYS: dict[str, tuple[tuple[str, str], ...]] = {
    **{m: tuple((f"{v} {w}", f"{g} {w}") for v, g in _GO for w in where) for m, where in _WHERE.items()},
    "circle": (
        ("moves in a circle", "moving in a circle"),
        ("circles around", "circling around"),
        ("goes around in circles", "going around in circles"),
        ("travels along a circle", "travelling along a circle"),
        ("makes a round trip in a loop", "making a round trip in a loop"),
    ),
    "zigzag": (
        ("zigzags across", "zigzagging across"),
        ("moves in a zigzag", "moving in a zigzag"),
        ("follows a zigzag path", "following a zigzag path"),
        ("goes up and down in a zigzag", "going up and down in a zigzag"),
    ),
    "bounce": (
        ("bounces", "bouncing"),
        ("bounces up and down", "bouncing up and down"),
        ("bounces like a ball", "bouncing like a ball"),
        ("keeps jumping off the ground", "jumping off the ground"),
        ("hops on the spot", "hopping on the spot"),
    ),
    "grow": (
        ("grows", "growing"),
        ("gets bigger", "getting bigger"),
        ("becomes larger", "becoming larger"),
        ("expands", "expanding"),
    ),
    "shrink": (
        ("shrinks", "shrinking"),
        ("gets smaller", "getting smaller"),
        ("becomes smaller", "becoming smaller"),
        ("contracts", "contracting"),
    ),
    "spin": (
        ("spins", "spinning"),
        ("rotates", "rotating"),
        ("spins on the spot", "spinning on the spot"),
        ("turns around itself", "turning around itself"),
    ),
    "stay": (  # nothing that would also be true of what spins or grows on the spot
        ("stays still", "staying still"),
        ("keeps still", "keeping still"),
        ("stands still", "standing still"),
        ("remains at rest", "remaining at rest"),
        ("does nothing", "doing nothing"),
    ),
}
WAYS["up"] += (("rises", "rising"), ("climbs up", "climbing up"))
WAYS["down"] += (("falls", "falling"), ("sinks down", "sinking down"))

# o: object, v: third person, g: -ing form
_ONE = (
    "{o} {v}",
    "{o} is {g}",
    "{o} {g}",
    "there is {o} that {v}",
    "there is {o} {g}",
    "we see {o} {g}",
    "in this video {o} {v}",
    "the video shows {o} {g}",
)
_TWO_PHASES = (
    "{o} {v1}, then {v2}",
    "{o} first {v1} and then {v2}",
    "{o} {v1} and after that {v2}",
    "{o} {v1} before {g2}",
    "{o} is {g1}, then {g2}",
    "after {g1}, {o} {v2}",
    "before {g2}, {o} {v1}",
    "there is {o} {g1} and then {g2}",
)
_TWO_OBJECTS = (
    "{o1} {v1} while {o2} {v2}",
    "{o1} {v1} and {o2} {v2}",
    "{o1} is {g1}, {o2} is {g2}",
    "as {o1} {v1}, {o2} {v2}",
    "{o1} {g1} and {o2} {g2}",
    "we see {o1} {g1} and {o2} {g2}",
    "there are {o1} {g1} and {o2} {g2}",
    "while {o1} is {g1}, {o2} {v2}",
)


def pick(options, rng: np.random.Generator):
    """One of a non-empty sequence, uniformly."""
    return options[int(rng.integers(len(options)))]


def phrase(facts: Facts, rng: np.random.Generator) -> str:
    """One sentence that claims exactly `facts` (one or two mentions); template, words and order are drawn."""
    if len(facts) == 2:
        first, second = (facts[i] for i in rng.permutation(2))
        v1, g1 = pick(WAYS[first.motion[0]], rng)
        v2, g2 = pick(WAYS[second.motion[0]], rng)
        o1, o2 = _object(first, rng, brief=True), _object(second, rng, brief=True)
        return pick(_TWO_OBJECTS, rng).format(o1=o1, v1=v1, g1=g1, o2=o2, v2=v2, g2=g2)
    (mention,) = facts
    if len(mention.motion) == 2:
        (v1, g1), (v2, g2) = (pick(WAYS[m], rng) for m in mention.motion)
        return pick(_TWO_PHASES, rng).format(o=_object(mention, rng), v1=v1, g1=g1, v2=v2, g2=g2)
    v, g = pick(WAYS[mention.motion[0]], rng)
    return pick(_ONE, rng).format(o=_object(mention, rng), v=v, g=g)


def _object(mention: Mention, rng: np.random.Generator, brief: bool = False) -> str:
    """A noun phrase: "a tiny red star", "the star which is red and small", "an orange object"."""
    noun = mention.shape or pick(THING_WORDS, rng)
    size = pick(SIZE_WORDS[mention.size], rng) if mention.size else None
    if size and mention.colour and not brief and rng.random() < 0.15:
        return _with_article(f"{noun} which is {mention.colour} and {size}", rng)
    return _with_article(" ".join(word for word in (size, mention.colour, noun) if word), rng)


def _with_article(words: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.25:
        return f"the {words}"
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def write_captions(scene: Scene, rng: np.random.Generator) -> list[tuple[str, Facts]]:
    """Five different captions of a scene with what each claims.

    The first says everything (it is the query of text-to-video retrieval); the second says everything but the
    sizes; each other one leaves out what `_leave_out` draws, so it may describe further videos.
    """
    everything = full_facts(scene)
    claims = [everything, tuple(_without_size(m) for m in everything)]
    claims += [_leave_out(everything, rng) for _ in range(CAPTIONS_PER_VIDEO - len(claims))]
    captions: dict[str, Facts] = {}
    for facts in claims:
        while (text := phrase(facts, rng)) in captions:
            pass
        captions[text] = facts
    return list(captions.items())


def _without_size(mention: Mention) -> Mention:
    return Mention(None, mention.colour, mention.shape, mention.motion)


def _leave_out(everything: Facts, rng: np.random.Generator) -> Facts:
    """Fewer facts: often one of two objects, half of the time the sizes, now and then a colour or a shape."""
    facts = everything
    if len(facts) == 2 and rng.random() < 0.4:
        facts = (pick(facts, rng),)
    if rng.random() < 0.5:
        facts = tuple(_without_size(m) for m in facts)
    if len(facts) == 1 and rng.random() < 0.15:
        (m,) = facts
        no_colour, no_shape = (
            Mention(m.size, None, m.shape, m.motion),
            Mention(m.size, m.colour, None, m.motion),
        )
        facts = (pick((no_colour, no_shape), rng),)
    return facts
