"""Captions, their exact `fits`, questions and multiple choice: every text is true (or false) as promised."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from snp_jax.data.toy.captions import CAPTIONS_PER_VIDEO, WAYS, phrase, write_captions
from snp_jax.data.toy.corpus import annotation_rows
from snp_jax.data.toy.facts import Mention, SceneIndex, describes, full_facts
from snp_jax.data.toy.questions import write_choice, write_questions
from snp_jax.data.toy.scenes import COLOURS, MOTIONS, SHAPES, Scene, Thing, sample_scenes

RED_STAR = Thing("small", "red", "star", ("left",))
BLUE_STAR = Thing("large", "blue", "star", ("spin",))
TURNING = Thing("large", "red", "star", ("left", "up"))


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(0, "test", 300)


@pytest.mark.parametrize(
    ("facts", "things", "true"),
    [
        ((Mention("small", "red", "star", ("left",)),), (RED_STAR,), True),
        ((Mention(None, "red", None, ("left",)),), (RED_STAR,), True),
        ((Mention(None, None, "star", ("left",)),), (BLUE_STAR, RED_STAR), True),  # one of two objects
        ((Mention("large", "red", "star", ("left",)),), (RED_STAR,), False),
        ((Mention(None, "red", "star", ("spin",)),), (RED_STAR, BLUE_STAR), False),  # the motion of the other
        ((Mention(None, "red", "star", ("left",)),), (TURNING,), False),  # a phase is not the whole motion
        ((Mention(None, "red", "star", ("up", "left")),), (TURNING,), False),  # the order counts
        ((Mention(None, "red", "star", ("left", "up")),), (TURNING,), True),
        (
            (Mention(None, None, "star", ("left",)),) * 2,
            (RED_STAR, BLUE_STAR),
            False,
        ),  # needs two that go left
        (
            (Mention(None, None, "star", ("spin",)), Mention(None, None, "star", ("left",))),
            (RED_STAR, BLUE_STAR),
            True,
        ),
        (
            (Mention(None, "red", "star", ("left",)), Mention(None, None, "star", ("spin",))),
            (RED_STAR,),
            False,
        ),
    ],
)
def test_describes(facts, things, true):
    assert describes(facts, Scene(things)) is true


def test_index_agrees_with_comparing_everything(scenes):
    index = SceneIndex(scenes)
    rng = np.random.default_rng(0)
    for scene in scenes[:100]:
        for _, facts in write_captions(scene, rng):
            assert index.matches(facts) == [i for i, other in enumerate(scenes) if describes(facts, other)]


def read_back(words):
    """The colours, shapes and motions a text mentions, each in the order of the text; no use of templates."""
    ways = [(re.escape(w), m) for m, forms in WAYS.items() for form in forms for w in form]
    ways.sort(key=lambda way: -len(way[0]))  # "bounces up and down" before "bounces"
    pattern = "|".join(rf"(?<!\w)({w})(?!\w)" for w, _ in ways)
    motions = [ways[match.lastindex - 1][1] for match in re.finditer(pattern, words)]
    tokens = re.findall(r"\w+", words)
    return [t for t in tokens if t in COLOURS], [t for t in tokens if t in SHAPES], motions


def test_captions_say_what_their_facts_claim(scenes):
    rng = np.random.default_rng(1)
    for scene in scenes:
        captions = write_captions(scene, rng)
        assert len({text for text, _ in captions}) == CAPTIONS_PER_VIDEO
        assert captions[0][1] == full_facts(scene)
        for text, facts in captions:
            assert describes(facts, scene)
            assert text == text.lower()
            assert len(text.split()) <= (24 if len(facts) == 2 else 20 if len(facts[0].motion) == 2 else 16)
            colours, shapes, motions = read_back(text)
            assert Counter(colours) == Counter(m.colour for m in facts if m.colour)
            if all(m.shape for m in facts):
                assert Counter(shapes) == Counter(m.shape for m in facts)
            assert Counter(motions) == Counter(x for m in facts for x in m.motion)
            sized = re.findall(r"\b(small|little|tiny|large|big|huge)\b", text)
            assert len(sized) == sum(m.size is not None for m in facts)


def test_order_words_keep_the_order_of_the_phases():
    facts = (Mention(None, "red", "star", ("left", "up")),)
    rng = np.random.default_rng(2)
    for _ in range(300):
        text = phrase(facts, rng)
        reversed_template = (text.startswith("before") or " after that " in text) and text.startswith("before")
        motions = read_back(text)[2]
        assert motions == (["up", "left"] if reversed_template else ["left", "up"]), text


def test_some_captions_leave_out_the_size_and_some_one_object(scenes):
    rng = np.random.default_rng(3)
    two = [write_captions(s, rng) for s in scenes if len(s.things) == 2]
    assert all(any(f[0].size is None for _, f in captions) for captions in two)
    partial = sum(len(f) == 1 for captions in two for _, f in captions)
    assert 0.15 < partial / (len(two) * CAPTIONS_PER_VIDEO) < 0.35


def true_answers(scene, kind, question):
    """What the question could mean: the answers for all things that fit the words of its reference."""
    words = re.findall(r"\w+", question)
    if kind == "count":
        return {("one", "two")[len(scene.things) - 1]}
    things = [t for t in scene.things if all(w in (t.colour, t.shape) for w in words if w in COLOURS + SHAPES)]
    motions = read_back(question)[2]
    if kind == "order":
        (thing,) = things
        if motions:
            assert ("after" in words) != ("before" in words)
            position = thing.motion.index(motions[0]) + (1 if "after" in words else -1)
            return {thing.motion[position]}
        return {thing.motion[0 if {"first", "start"} & set(words) else 1]}
    things = [t for t in things if not motions or t.motion == tuple(motions)]
    return {t.motion[0] if kind == "motion" else getattr(t, kind) for t in things}


def test_questions_have_exactly_one_answer_and_do_not_contain_it(scenes):
    rng = np.random.default_rng(4)
    for scene in scenes:
        asked = write_questions(scene, rng)
        assert 4 <= len(asked) <= 5
        assert len({row["question"] for row in asked}) == len(asked)
        for row in asked:
            assert true_answers(scene, row["kind"], row["question"]) == {row["answer"]}, row
            assert row["answer"] not in row["question"].split()
            assert row["answer"] in {*COLOURS, *SHAPES, *MOTIONS, "one", "two"}
        if len(scene.things[0].motion) == 2:
            assert [row["kind"] for row in asked].count("order") == 2


def test_no_answer_is_a_safe_bet(scenes):
    rng = np.random.default_rng(5)
    answers = Counter(row["answer"] for scene in scenes for row in write_questions(scene, rng))
    assert answers.most_common(1)[0][1] < 0.15 * answers.total()


def test_choice_has_one_true_option_and_the_promised_distractors(scenes):
    rng = np.random.default_rng(6)
    places = Counter()
    for scene in scenes:
        options, right = write_choice(scene, lambda facts: True, rng)
        places[right] += 1
        assert len(set(options)) == 5
        said = [read_back(option) for option in options]
        objects = [Counter(zip(colours, shapes, strict=True)) for colours, shapes, _ in said]
        motions = [tuple(m) for _, _, m in said]
        assert objects[right] == Counter((t.colour, t.shape) for t in scene.things)
        assert Counter(motions[right]) == Counter(m for t in scene.things for m in t.motion)
        assert objects.count(objects[right]) == 2  # the same objects once more, with a wrong motion
        assert Counter(map(frozenset, map(Counter.items, objects))).most_common(2)[1][1] == 2  # and wrong ones
    assert min(places.values()) > 0.12 * len(scenes)


def test_choice_prefers_pairs_of_the_split():
    scenes = sample_scenes(0, "test", 200)
    allowed = {(t.colour, t.shape, t.motion) for s in sample_scenes(0, "test", 2000) for t in s.things}
    outside = total = 0
    for scene, row in zip(scenes, annotation_rows(0, "test", scenes), strict=True):
        if len(scene.things) == 1 and len(scene.things[0].motion) == 1:
            for option in row["options"]:
                (colour,), (shape,), (motion,) = read_back(option)
                outside += (colour, shape, (motion,)) not in allowed
                total += 1
    assert outside < 0.1 * total


def test_options_alone_do_not_give_the_answer_away(scenes):
    """The option that shares most words with the others is right hardly more often than one of four."""
    rng = np.random.default_rng(7)
    right = 0
    for scene in itertools.chain(scenes, sample_scenes(0, "train", 600)):
        options, answer = write_choice(scene, lambda facts: True, rng)
        said = [Counter(sum(map(list, read_back(option)), [])) for option in options]
        shared = [sum((a & b).total() for b in said) for a in said]
        best = np.flatnonzero(np.array(shared) == max(shared))
        right += (answer in best) / len(best)
    assert right / (len(scenes) + 600) < 0.31
