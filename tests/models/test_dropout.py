"""What is dropped: as often as asked, at random, by the row's number and the place in the row."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.models import dropout

KEY = jax.random.key(0)


def centred(shape, key=KEY, rate=0.3):
    """+-, mean 0 and variance 1 where draws are independent."""
    return (np.asarray(dropout.draw_kept(key, rate, shape)) - (1 - rate)) / np.sqrt(rate * (1 - rate))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_of_what_is_kept(rate):
    for given in (rate, jnp.float32(rate)):
        kept = np.asarray(dropout.draw_kept(KEY, given, (64, 40, 768)))
        assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / kept.size)
        for axis in range(3):  # no row, position or channel is special
            part = kept.mean(axis=tuple({0, 1, 2} - {axis}))
            assert np.abs(part - (1 - rate)).max() < 5.5 * np.sqrt(rate * (1 - rate) * kept.shape[axis] / kept.size)


def test_draws_are_not_correlated():
    shape = (32, 24, 256)
    drawn, bound = centred(shape), 5.5 / np.sqrt(np.prod(shape))
    for shifts in itertools.product((0, 1, 3), (0, 1, 2, 8), (0, 1, 2, 64)):
        if any(shifts):
            assert abs((drawn * np.roll(drawn, shifts, (0, 1, 2))).mean()) < bound, shifts
    for key in (jax.random.key(1), jax.random.fold_in(KEY, 0), jax.random.split(KEY)[0]):
        assert abs((drawn * centred(shape, key)).mean()) < bound


def test_bits_are_even():
    """Every byte of the random numbers takes each of its values equally often (chi-square, 255 degrees of freedom)."""
    seeds = tuple(seed[:, None] for seed in dropout.row_seeds(KEY, jnp.arange(64, dtype=jnp.uint32)))
    bits = np.asarray(dropout.random_bits(seeds, jnp.arange(4096, dtype=jnp.uint32)))
    for shift in (0, 8, 16, 24):
        counts = np.bincount(((bits >> shift) & 255).ravel(), minlength=256)
        chi_square = np.square(counts - bits.size / 256).sum() / (bits.size / 256)
        assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)


def test_rows_with_close_seeds_do_not_repeat_each_other():
    places = jnp.arange(1000, dtype=jnp.uint32)
    one, other = (dropout.random_bits((jnp.uint32(first), jnp.uint32(second)), places) for first, second in ((7, 1), (8, 2)))
    assert np.isin(one, other).mean() < 0.01


def test_draws_follow_the_numbers_of_rows():
    numbers = jnp.asarray([9, 2, 5], jnp.uint32)
    with dropout.numbered_rows(numbers):
        own = np.asarray(dropout.draw_kept(KEY, 0.5, (3, 4, 64)))
        parts = np.asarray(dropout.draw_kept(KEY, 0.5, (6, 2, 64)))  # two parts of each row
    with dropout.numbered_rows(numbers[::-1]):
        np.testing.assert_array_equal(dropout.draw_kept(KEY, 0.5, (3, 4, 64)), own[::-1])
    np.testing.assert_array_equal(parts.reshape(own.shape), own)
    np.testing.assert_array_equal(dropout.draw_kept(KEY, 0.5, (10, 4, 64))[np.asarray(numbers)], own)


def test_tokens_are_drawn_for_as_where_they_were_taken_from():
    numbers = jnp.asarray([9, 2, 5], jnp.uint32)
    rows, positions = jnp.asarray([0, 0, 2, 1]), jnp.asarray([0, 3, 2, 1])
    for given in (None, numbers):
        with dropout.numbered_rows(given):
            whole = dropout.draw_kept(KEY, 0.5, (3, 4, 64))
            tokens = dropout.draw_kept(KEY, 0.5, (4, 64), (rows, positions))
        np.testing.assert_array_equal(tokens, whole[rows, positions])
