"""Which video comes when, and in which size: counted on row numbers, without videos."""

from __future__ import annotations

import collections
import pickle

import grain
import numpy as np
import pytest

from snp_jax.data.mixture import Mixture
from snp_jax.data.order import BUCKET_WINDOW, PADDING_ROW, BucketedOrder, Buckets, bucket_of, evaluation_places, training_rows
from snp_jax.errors import UserError


class Source:
    """As many videos as asked for, which nobody reads."""

    def __init__(self, length, directory="some/set", split="train"):
        self.length, self.directory, self.split = length, directory, split

    def __len__(self):
        return self.length


def rows(mixture, count, seed=0, start=0):
    order = training_rows(mixture, seed)
    return np.array([order[i] for i in range(start, start + count)])


def test_one_source_is_shuffled_anew_each_round():
    first = rows(Mixture([Source(10)]), 30)
    for turn in first.reshape(3, 10):
        assert sorted(turn) == list(range(10))
    assert len({tuple(turn) for turn in first.reshape(3, 10).tolist()}) == 3
    np.testing.assert_array_equal(first[7:], rows(Mixture([Source(10)]), 23, start=7))
    assert (first != rows(Mixture([Source(10)]), 30, seed=1)).any()


def test_shares_are_exact_and_every_source_goes_round_at_its_own_pace():
    mixture = Mixture([Source(128), Source(300)], weights=(1, 3))
    assert mixture.shares == (0.25, 0.75)
    drawn = rows(mixture, 4096)
    small = drawn[drawn < 128]
    assert len(small) == 1024
    for turn in small.reshape(-1, 128):
        assert sorted(turn) == list(range(128))
    for turn in drawn[drawn >= 128][:3000].reshape(-1, 300):
        assert sorted(turn) == list(range(128, 428))
    hosts = [(drawn[h::4] < 128).mean() for h in range(4)]
    np.testing.assert_allclose(hosts, 0.25, atol=0.05)  # images and videos on every host


def test_without_weights_everything_comes_equally_often():
    drawn = rows(Mixture([Source(300), Source(900)]), 2400)
    np.testing.assert_allclose(np.bincount(drawn, minlength=1200), 2, atol=1)


def test_sources_of_one_length_are_not_in_the_same_order():
    drawn = rows(Mixture([Source(500), Source(500)]), 1000)
    first, second = drawn[drawn < 500], drawn[drawn >= 500] - 500
    assert (first[:40] != second[:40]).any()


@pytest.mark.parametrize("weights", [(1,), (1, 0), (1, -1), (1, 2, 3)])
def test_weights_that_do_not_fit(weights):
    with pytest.raises(UserError, match="config.dataset.weights=.* needs one number above 0 for each of the 2 datasets"):
        Mixture([Source(3), Source(3)], weights)


def test_an_empty_source_is_refused():
    with pytest.raises(UserError, match="some/set: the train split has no videos"):
        Mixture([Source(3), Source(0)])


def test_names_are_different():
    assert Mixture([Source(1, "a/x"), Source(1, "b/x"), Source(1, "b/y")]).names == ("x", "x#2", "y")


# ---------------------------------------------------------------------- buckets
SIZES = ((448, 448), (256, 448), (448, 256))


def test_the_bucket_is_the_one_in_which_a_picture_is_largest():
    pictures = [(240, 320), (1080, 1920), (1920, 1080), (100, 100), (0, 0), (300, 1000), (448, 256), (1, 5000)]
    chosen = bucket_of(np.array(pictures, np.uint16), SIZES)
    # 4:3 would be cut down by 256 rows; 16:9 has 252 rows in both and takes the smaller canvas.
    assert chosen.tolist() == [0, 1, 2, 0, 0, 1, 2, 1]


@pytest.fixture(scope="module")
def buckets():
    return Buckets(SIZES, np.random.default_rng(0).choice(3, 700, p=(0.5, 0.3, 0.2)).astype(np.uint8))


def places(buckets, count, start=0, batch=8, seed=0):
    order = pickle.loads(pickle.dumps(BucketedOrder(training_rows(Mixture([Source(700)]), seed), buckets, batch, seed)))
    return [order[i] for i in range(start, start + count)]


def test_a_batch_has_one_size_and_no_position_is_lost(buckets):
    count = 2 * BUCKET_WINDOW * 8
    found = places(buckets, count)
    plain = rows(Mixture([Source(700)]), count)
    for window in range(2):
        part = slice(window * count // 2, (window + 1) * count // 2)
        assert collections.Counter(place.row for place in found[part]) == collections.Counter(plain[part].tolist())
    mixed = 0
    for batch in range(count // 8):
        members = found[8 * batch : 8 * batch + 8]
        (canvas,) = {place.canvas for place in members}
        assert all(place.box == SIZES[buckets.of_row[place.row]] for place in members)
        boxes = {place.box for place in members}
        mixed += boxes != {canvas}
        assert all(h <= canvas[0] and w <= canvas[1] for h, w in boxes)
    assert mixed <= 2 * len(SIZES)  # the rest of each bucket, in each window
    in_a_row = [found[8 * i].canvas for i in range(BUCKET_WINDOW)]
    assert len(set(in_a_row[:20])) > 1  # buckets take turns


def test_any_position_can_be_asked_for_first(buckets):
    whole = places(buckets, 1200)
    assert whole[1100:1200] == places(buckets, 100, start=1100)
    assert whole[500:600] == places(buckets, 100, start=500)
    order = BucketedOrder(training_rows(Mixture([Source(700)]), 0), buckets, 8, 0)
    jumps = np.random.default_rng(0).integers(0, 1200, 50).tolist()
    assert [order[i] for i in jumps] == [whole[i] for i in jumps]


def test_buckets_read_through_grain(buckets):
    order = BucketedOrder(training_rows(Mixture([Source(700)]), 0), buckets, 8, 0)
    dataset = grain.MapDataset.source(order)[3::4]
    assert [dataset[i] for i in range(50)] == [order[3 + 4 * i] for i in range(50)]


def test_evaluation_takes_every_row_once_bucket_by_bucket(buckets):
    found = evaluation_places(buckets, 16)
    assert len(found) % 16 == 0
    real = [place.row for place in found if place.row != PADDING_ROW]
    assert sorted(real) == list(range(700)) and len(found) - 700 < 3 * 16
    for batch in range(len(found) // 16):
        assert len({place.canvas for place in found[16 * batch : 16 * batch + 16]}) == 1
