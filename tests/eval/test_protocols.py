"""Protocols on a scorer with known scores: who is scored, who comes last, what is counted."""

from __future__ import annotations

import numpy as np
import pytest

from snp_jax.data.augment import AugmentOptions
from snp_jax.data.records import Annotation, Question
from snp_jax.errors import UserError
from snp_jax.eval import protocols
from snp_jax.eval.scoring import EncodedTexts, EncodedVideos, Scorer, stage1_matrix


class Letters:
    def encode(self, text, max_len, rng=None):
        codes = [ord(letter) for letter in text[:max_len]]
        return np.array(codes + [0] * (max_len - len(codes)), np.int32), np.arange(max_len) < len(codes)


def split(broken=()):
    """Four videos whose features are the unit vectors; video i has captions "i" and "i!"."""
    ids = ("v0", "v1", "v2", "v3")
    valid = np.array([name not in broken for name in ids])
    features = np.eye(4, dtype=np.float32)[:, None] * valid[:, None, None]
    videos = EncodedVideos(ids, features, features, valid[:, None], valid, dict.fromkeys(broken, "open: bad"))
    annotations = [
        Annotation(
            name, captions=(f"{i}", f"{i}!"), questions=(Question("q", "red" if i < 2 else "blue", "colour"),),
            options=("0", "1", "2", "3"), option_answer=i, fits=(frozenset({ids[i - 1]}), frozenset()),
        )
        for i, name in enumerate(ids)
    ]  # fmt: skip
    return videos, annotations


class FakeScorer:
    """Stage 1 finds video i for caption "i", next i + 1, and so on; `best` maps a caption's number to stage 2's choice."""

    def __init__(self, best=None):
        self.best = best or {}
        self.scored = []

    def texts(self, texts, tokenizer, max_len):
        encoded = [tokenizer.encode(text, max_len) for text in texts]
        features = np.stack([np.roll([1.0, 0.9, 0.8, 0.7], int(text[0])) for text in texts])
        return EncodedTexts(*(np.stack(part) for part in zip(*encoded, strict=True)), features)

    def pairs(self, ids, mask, videos, text_index, video_index, head="match"):
        numbers = ids[text_index, 0] - ord("0")
        self.scored += list(zip(text_index.tolist(), video_index.tolist(), strict=True))
        if head == "answer":
            return np.eye(3, dtype=np.float32)[np.where(video_index == 0, 0, 1)]
        wanted = np.array([self.best.get(int(number), int(number)) for number in numbers])
        return (video_index == wanted).astype(np.float32)


def retrieve(scorer, videos, annotations, **changes):
    settings = {"max_len": 4, "rerank": 0, "captions": "first", "duplicates": "strict", "ties": "average"} | changes
    return protocols.retrieval(scorer, videos, annotations, Letters(), **settings)


def test_all_pairs():
    videos, annotations = split()
    scorer = FakeScorer(best={0: 1})
    results, scores = retrieve(scorer, videos, annotations, captions="all")
    assert scores.texts.tolist() == ["0", "0!", "1", "1!", "2", "2!", "3", "3!"]
    assert sorted(scorer.scored) == [(q, v) for q in range(8) for v in range(4)]
    assert results["queries"] == 8 and results["stage2_candidates"] == 4
    assert results["t2v"]["r1"] == 75.0 and results["stage1"]["t2v"]["r1"] == 100.0


def test_rerank_scores_only_the_best_candidates_of_either_direction():
    videos, annotations = split()
    scorer = FakeScorer(best={0: 1, 1: 0})  # 0's second candidate is 1; 1's last is 0
    results, scores = retrieve(scorer, videos, annotations, rerank=2)
    by_text = {(q, v % 4) for q in range(4) for v in (q, q + 1)}
    by_video = {(q % 4, v) for v in range(4) for q in (v, v - 1)}
    assert set(scorer.scored) == by_text | by_video and len(scorer.scored) == len(by_text | by_video)
    assert scores.ranking[0].argmax() == 1  # stage 2 overrules stage 1 among its candidates
    assert scores.ranking[1].argmax() != 0  # and cannot bring in another
    assert scores.ranking[2].tolist().index(max(scores.ranking[2])) == 2


def test_a_broken_video_is_scored_last_and_counted():
    videos, annotations = split(broken=("v1",))
    scorer = FakeScorer()
    results, scores = retrieve(scorer, videos, annotations)
    assert not any(v == 1 for _, v in scorer.scored)
    assert np.isneginf(scores.ranking[:, 1]).all()
    assert results["gallery"] == 4 and results["queries"] == 4
    assert results["t2v"]["r1"] == 75.0 and results["v2t"]["r1"] == 75.0


def test_videos_that_also_fit_are_correct():
    videos, annotations = split()
    results, _ = retrieve(FakeScorer(best={i: (i - 1) % 4 for i in range(4)}), videos, annotations, duplicates="fits")
    assert results["several_correct"] == 4 and results["t2v"]["r1"] == 100.0
    strict, _ = retrieve(FakeScorer(best={i: (i - 1) % 4 for i in range(4)}), videos, annotations)
    assert strict["t2v"]["r1"] == 0.0


def test_question_answering_counts_broken_videos_and_unknown_answers_as_wrong():
    videos, annotations = split(broken=("v1",))
    ask = lambda answers: protocols.question_answering(  # noqa: E731
        FakeScorer(), videos, annotations, Letters(), answers, np.array([1, 1, 0]), max_len=4
    )
    both = ask({"red": 0, "blue": 1})  # v0 red: right; v1 broken; v2, v3 blue: right
    assert (both["accuracy"], both["questions"], both["majority_baseline"]) == (75.0, 4, 50.0)
    assert both["by_kind"] == {"colour": 75.0}
    assert ask({"red": 0})["accuracy"] == 25.0


def test_multiple_choice():
    videos, annotations = split(broken=("v3",))
    results = protocols.multiple_choice(FakeScorer(), videos, annotations, Letters(), max_len=4)
    assert results == {"accuracy": 75.0, "questions": 4}


def test_a_split_without_the_texts():
    videos, _ = split()
    bare = [Annotation(name) for name in videos.ids]
    with pytest.raises(UserError, match="has no captions"):
        retrieve(FakeScorer(), videos, bare)
    with pytest.raises(UserError, match="has no questions"):
        protocols.question_answering(FakeScorer(), videos, bare, Letters(), {}, np.zeros(1, int), max_len=4)
    with pytest.raises(UserError, match="has no options"):
        protocols.multiple_choice(FakeScorer(), videos, bare, Letters(), max_len=4)
    with pytest.raises(UserError, match="choose"):
        retrieve(FakeScorer(), *split(), captions="some")


def test_chunks_of_one_size_cover_every_row_once():
    rows = Scorer._rows(7, 3)
    assert [len(part) for part in rows] == [3, 3, 3]
    assert np.concatenate(rows)[:7].tolist() == list(range(7))
    assert [len(part) for part in Scorer._rows(2, 5)] == [2]


def test_padding_of_the_last_chunk_is_cut_off():
    scorer = Scorer(None, None, num_clips=1, batch_size=2, chunk=3, changes=AugmentOptions())
    scorer._score = lambda params, ids, mask, tokens, clip_mask, head: ids[:, 0] * 10 + tokens[:, 0, 0]
    videos, _ = split()
    ids = np.arange(5)[:, None]
    scores = scorer.pairs(ids, ids > 0, videos, np.arange(5), np.array([0, 1, 2, 3, 0]))
    np.testing.assert_array_equal(scores, [1, 10, 20, 30, 41])


def test_stage1_pools_clips_by_log_sum_exp():
    videos, _ = split(broken=("v2",))
    texts = EncodedTexts(np.zeros((1, 4)), np.ones((1, 4), bool), np.array([[0.5, 0.25, 1.0, 0.0]], np.float32))
    np.testing.assert_allclose(stage1_matrix(texts, videos), [[0.5, 0.25, -np.inf, 0.0]])
