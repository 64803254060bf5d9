"""Random orders and draws that are functions of what they are for."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from data.order import hashed, ranges, shuffled, uniform


@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_a_shuffle_has_every_number_once(size, seed, epoch):
    assert sorted(shuffled(np.arange(size), size, seed, epoch)) == list(range(size))


@given(st.integers(1, 10**9), st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
@settings(deadline=None)
def test_a_place_has_the_same_number_alone_and_beside_others(size, places):
    places = np.array(places) % size
    together = shuffled(places, size, 3, 4)
    assert ((together >= 0) & (together < size)).all()
    assert [shuffled(places[i : i + 1], size, 3, 4)[0] for i in range(len(places))] == together.tolist()


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_order_of_a_few_is_equally_likely(size):
    draws = 6000
    found = Counter(tuple(shuffled(np.arange(size), size, 7, key).tolist()) for key in range(draws))
    orders = {2: 2, 3: 6, 4: 24}[size]
    assert len(found) == orders
    assert stats.chisquare(list(found.values())).pvalue > 1e-4


def test_places_of_a_large_shuffle_are_spread_evenly_and_not_in_rows():
    size = 100_003
    found = shuffled(np.arange(size), size, 1, 2)
    quarters = np.histogram2d(np.arange(size) // (size / 10), found // (size / 10), bins=10)[0]
    assert stats.chisquare(quarters.ravel()).pvalue > 1e-4
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02


def test_uniform_numbers_are_uniform_and_each_key_counts():
    numbers = uniform(5, np.arange(200)[:, None], np.arange(200))
    assert numbers.shape == (200, 200) and numbers.min() >= 0 and numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-4
    assert len(np.unique(hashed(1, 2, np.arange(1000), 3))) == 1000
    assert len({int(hashed(*keys)) for keys in [(1, 2), (2, 1), (1, 2, 0), (0, 1, 2), (1,), (2,)]}) == 6


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 9)), max_size=10))
def test_ranges_one_behind_the_other(pairs):
    start, count = (np.array(column, dtype=np.uint32) for column in (zip(*pairs, strict=True) if pairs else ([], [])))
    numbers, owner = ranges(start, count)
    assert numbers.tolist() == [s + i for s, n in pairs for i in range(n)]
    assert owner.tolist() == [k for k, (_, n) in enumerate(pairs) for _ in range(n)]
