"""Counting broken videos: each once, by reason, and the limit."""

import numpy as np
import pytest

from snp_jax.data.failures import BrokenVideos
from snp_jax.errors import UserError


def batch(*rows):
    """Rows are (video id, failure)."""
    return {"video_id": np.array([row[0] for row in rows]), "failure": np.array([row[1] for row in rows])}


def fine(first, count):
    return [(f"v{i}", "") for i in range(first, first + count)]


def test_each_broken_video_counts_once_however_often_it_comes():
    broken = BrokenVideos("train", 1000)
    for _ in range(3):
        broken.update(batch(("a", "damaged: half"), ("b", "open: empty"), ("c", "open: text"), *fine(0, 20)))
    assert broken.count == 3
    assert broken.by_reason() == {"damaged": 1, "open": 2}
    assert broken.names() == {"a": "damaged: half", "b": "open: empty", "c": "open: text"}
    assert broken.summary() == "3 broken videos masked (1 damaged, 2 open): a, b, c"


def test_nothing_broken_nothing_said():
    broken = BrokenVideos("train", 10)
    broken.update(batch(*fine(0, 10)))
    assert broken.summary() == "" and broken.count == 0


def test_many_names_are_cut():
    broken = BrokenVideos("train", 1000)
    broken.update(batch(*[(f"v{i}", "open: x") for i in range(8)]))
    assert broken.summary().endswith("v0, v1, v2, v3, v4 and 3 more")


def test_too_many_end_the_run_once_enough_were_seen():
    broken = BrokenVideos("prepared/toy train", 1000, max_share=0.05)
    broken.update(batch(*[(f"b{i}", "open: x") for i in range(6)], *fine(0, 93)))  # 6 of 99: too early to say
    with pytest.raises(UserError) as caught:
        broken.update(batch(*fine(93, 1)))  # 6 of 100
    assert str(caught.value).startswith(
        "prepared/toy train: 6 of the first 100 videos cannot be decoded, more than the 5% that "
        "max_broken_share allows (b0, b1, b2, b3, b4 and 1 more)"
    )


def test_exactly_the_allowed_share_goes_on():
    broken = BrokenVideos("train", 1000, max_share=0.05)
    broken.update(batch(*[(f"b{i}", "open: x") for i in range(5)], *fine(0, 95)))


def test_a_small_dataset_is_judged_after_one_round():
    broken = BrokenVideos("train", 10, max_share=0.05)
    broken.update(batch(("b", "open: x"), *fine(0, 8)))
    with pytest.raises(UserError, match="1 of the first 10 videos"):
        broken.update(batch(*fine(8, 1)))


def test_coming_around_again_does_not_dilute_or_inflate_the_share():
    broken = BrokenVideos("train", 20, max_share=0.1)
    for _ in range(10):
        broken.update(batch(("a", "open: x"), ("b", "open: x"), *fine(0, 18)))
    assert broken.count == 2
    with pytest.raises(UserError, match="3 of the first 20"):
        broken.update(batch(("c", "open: x")))


def test_padding_is_no_video():
    broken = BrokenVideos("train", 100, max_share=0.5)
    broken.update(batch(("", ""), ("", "")))
    with pytest.raises(UserError, match="51 of the first 100"):
        broken.update(batch(*[(f"b{i}", "open: x") for i in range(51)], *fine(0, 49)))
