"""Randomness without tables: every draw is a function of what it is for (a seed, an epoch, a number), computed when needed.

An epoch of 30 million questions so costs nothing to begin, and can be entered anywhere.
"""

from __future__ import annotations

import numpy as np

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
ROUNDS = 8
"""Rounds of the Feistel network: more than the four from which it is a pseudo-random permutation, as sets may be tiny."""


def hashed(*keys: int | np.ndarray) -> np.ndarray:
    """64 random bits for each combination of keys, which are non-negative integers or arrays of them: (...) uint64.

    SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), a key a step.
    """
    bits = np.zeros(1, dtype=np.uint64)
    for key in keys:
        bits = _mixed(bits + np.asarray(key).astype(np.uint64) + _WEYL)
    return bits if any(np.ndim(key) for key in keys) else bits[0]


def _mixed(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX[0]
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX[1]
    return bits ^ (bits >> np.uint64(31))


def uniform(*keys: int | np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) for each combination of keys: (...) float64."""
    return (hashed(*keys) >> np.uint64(11)) * 2.0**-53


def shuffled(places: np.ndarray, size: int, *keys: int) -> np.ndarray:
    """What stands at `places` of a random order of range(size): (n,) int64.

    A Feistel network permutes the numbers of as many bits as `size` has (Luby and Rackoff 1988); one that leads outside
    is sent on until it is inside again (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    high = np.uint64(max(1, (size - 1).bit_length()) // 2)
    low = np.uint64(max(1, (size - 1).bit_length())) - high
    turns = hashed(*keys, np.arange(ROUNDS))
    number = _feistel(np.asarray(places).astype(np.uint64), high, low, turns)
    while len(outside := np.flatnonzero(number >= size)):
        number[outside] = _feistel(number[outside], high, low, turns)
    return number.astype(np.int64)


def _feistel(number: np.ndarray, high: np.uint64, low: np.uint64, turns: np.ndarray) -> np.ndarray:
    one = np.uint64(1)
    left, right = number >> low, number & ((one << low) - one)
    for turn in range(0, len(turns), 2):
        left = left ^ (_mixed(right + turns[turn]) & ((one << high) - one))
        right = right ^ (_mixed(left + turns[turn + 1]) & ((one << low) - one))
    return left << low | right


def ranges(start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers start[i], start[i] + 1, ... of each range one behind the other, and the i of each: int64, (sum of count,)."""
    start, count = np.asarray(start).astype(np.int64), np.asarray(count).astype(np.int64)
    owner = np.repeat(np.arange(len(count)), count)
    return np.arange(len(owner)) + (start - (np.cumsum(count) - count))[owner], owner
