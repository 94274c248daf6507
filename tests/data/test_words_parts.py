"""Mining in pieces: the same words whatever the processes, the order and the interruptions."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snp_jax.data import words_mining, words_parts
from snp_jax.data.text import SPECIAL_PIECES
from snp_jax.data.words import load_words
from snp_jax.data.words_parts import Parts, describe_files
from snp_jax.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
_NOUNS = ("man", "woman", "dog", "guitar", "child", "horse", "car", "river")
_VERBS = ("runs", "is playing", "jumped", "sings", "was eating", "looks")
_ADJECTIVES = ("green", "small", "old", "happy")


def generated(count, seed=0):
    rng = random.Random(seed)
    return [
        f"a {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)} {rng.choice(_VERBS)} near {rng.randrange(99)} {rng.choice(_NOUNS)}s"
        for _ in range(count)
    ]


CAPTIONS = generated(300)


@pytest.fixture
def small_units(monkeypatch):
    monkeypatch.setattr(words_parts, "_UNIT", 60)
    monkeypatch.setattr(words_mining, "_CHUNK", 16)


@pytest.fixture
def parts(tmp_path):
    return Parts.beside(tmp_path / "words.json", "the captions")


def mine(captions=CAPTIONS, **options):
    return words_mining.mine_words(captions, progress=False, **{"jobs": 1, **options})


def test_processes_and_order_do_not_matter(monkeypatch):
    monkeypatch.setattr(words_mining, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(words_parts, "_UNIT", 60)
    one, two = mine(), mine(CAPTIONS[::-1], jobs=2)
    assert one == two and list(one.words) == list(two.words)
    assert one.captions == 300 and one.distinct_captions == len(set(CAPTIONS))


def test_a_small_corpus_is_one_unit_and_a_large_one_several(tmp_path):
    assert len(Parts(tmp_path / "a", "x").deal(iter(CAPTIONS), "t", progress=False).units) == 1
    many = (f"caption {i}" for i in range(40_000))
    plan = Parts(tmp_path / "b", "x").deal(many, "t", progress=False)
    assert len(plan.units) == 3 and sum(unit.captions for unit in plan.units) == plan.captions == 40_000
    assert [unit.first for unit in plan.units[1:]] == [unit.last for unit in plan.units[:-1]]
    assert (plan.units[0].first, plan.units[-1].last) == (0, 256)


def test_an_interruption_in_any_unit_costs_that_unit_alone(small_units, parts, monkeypatch):
    expected = mine()
    plan = parts.deal(map(words_mining._normalised, CAPTIONS), mine().tagger, progress=False)
    assert len(plan.units) >= 4
    tag, tagged = words_mining._tag_unit, []

    def interrupted(nlp, parts, unit):
        if len(tagged) in stops:
            stops.remove(len(tagged))
            raise KeyboardInterrupt
        tagged.append(unit.name)
        tag(nlp, parts, unit)

    stops = {0, 1, 3}
    monkeypatch.setattr(words_mining, "_tag_unit", interrupted)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            mine(parts=parts)
    never_read = (pytest.fail("the captions were read again") for _ in range(1))
    assert mine(never_read, parts=parts) == expected
    assert sorted(tagged) == sorted(unit.name for unit in plan.units)


def test_captions_that_were_not_dealt_out_completely_are_dealt_out_again(small_units, parts):
    def dies():
        yield from CAPTIONS[:100]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine(dies(), parts=parts)
    assert mine(parts=parts) == mine()


def test_another_corpus_starts_anew(small_units, parts, tmp_path):
    mine(parts=parts)
    other = Parts(parts.directory, "other captions")
    assert mine(generated(50, seed=1), parts=other) == mine(generated(50, seed=1))
    file = tmp_path / "a.txt"
    file.write_text("a dog")
    before = describe_files([file])
    file.write_text("a dog runs")
    assert describe_files([file]) != before
    with pytest.raises(UserError, match="no.txt: cannot be read"):
        describe_files([tmp_path / "no.txt"])


def test_odd_characters():
    texts = ["a dog\u2028runs", "a \ud800 dog runs", "caf\u00e9 \u732b", "\u00a0"]
    mined = mine(texts)
    assert mined.captions == 3 and mined.words["dog"].noun == 2


def test_a_killed_process_ends_the_run_with_one_sentence(small_units, parts, monkeypatch):
    monkeypatch.setattr(words_mining, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(words_mining, "_tag_in_worker", _killed)
    with pytest.raises(UserError, match="a process that tags captions has ended .*; run the same command again to go on"):
        mine(jobs=2, parts=parts)
    monkeypatch.undo()
    assert not list(parts.directory.glob("counts/*"))


def _killed(parts, unit):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_kills_at_random_moments_leave_the_same_file(tmp_path):
    """The tool itself, with two processes; the last run is left alone."""
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(generated(120_000)))
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_PIECES, "guitar", "grass", "the"]))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def start(out):
        command = [sys.executable, "tools/mine_significant_words.py", "--captions", file, "--out", out, "--jobs", "2"]
        return subprocess.Popen([*map(str, command)], cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "straight.json").wait(timeout=1200) == 0
    rng, out, kills = random.Random(0), tmp_path / "killed.json", 0
    counts = Path(f"{out}.parts") / "counts"
    for _ in range(8):
        process, done = start(out), len(list(counts.glob("*.json")))
        while process.poll() is None and len(list(counts.glob("*.json"))) < done + rng.randint(0, 1):
            time.sleep(0.05)
        time.sleep(rng.random())
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        if out.exists():
            break
    assert kills >= 4
    assert start(out).wait(timeout=1200) == 0
    assert out.read_bytes() == (tmp_path / "straight.json").read_bytes()
    assert load_words(out).captions == 120_000 and not counts.parent.exists()
