"""What a caption claims, and which scenes it therefore describes. No words here (captions.py) and no sampling
(scenes.py).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from snp_jax.data.toy.scenes import Motion, Scene, Thing


@dataclass(frozen=True)
class Mention:
    """What a caption says of one object; None = not said. The motion is always said, and as a whole."""

    size: str | None
    colour: str | None
    shape: str | None
    motion: Motion

    def describes(self, thing: Thing) -> bool:
        """Whether everything said is true of `thing`."""
        return (
            self.size in (None, thing.size)
            and self.colour in (None, thing.colour)
            and self.shape in (None, thing.shape)
            and self.motion == thing.motion
        )


Facts = tuple[Mention, ...]  # all that one caption claims


def full_facts(scene: Scene) -> Facts:
    """Everything there is to say about a scene, its things in their order."""
    return tuple(Mention(t.size, t.colour, t.shape, t.motion) for t in scene.things)


def describes(facts: Facts, scene: Scene) -> bool:
    """Whether the mentions match different things of the scene one to one (things may stay unmentioned)."""
    return any(
        all(mention.describes(thing) for mention, thing in zip(facts, things, strict=True))
        for things in itertools.permutations(scene.things, len(facts))
    )


class SceneIndex:
    """Finds the scenes that given facts describe, without comparing all captions with all scenes."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self._scenes = scenes
        self._where: dict[Mention, set[int]] = defaultdict(set)
        for i, scene in enumerate(scenes):
            for thing in scene.things:
                for mention in _all_mentions(thing):
                    self._where[mention].add(i)

    def matches(self, facts: Facts) -> list[int]:
        """The positions of all scenes that `facts` describes, in increasing order."""
        candidates = set.intersection(*(self._where.get(mention, set()) for mention in facts))
        return sorted(i for i in candidates if describes(facts, self._scenes[i]))


def _all_mentions(thing: Thing) -> list[Mention]:
    """The eight ways to mention a thing truthfully."""
    choices = [(None, thing.size), (None, thing.colour), (None, thing.shape)]
    return [Mention(*said, thing.motion) for said in itertools.product(*choices)]
