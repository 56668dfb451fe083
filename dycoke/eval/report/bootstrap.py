"""95 % intervals of scores, by drawing videos anew: the percentile bootstrap over clusters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dycoke.eval.runs.sample_scores import Scored

RESAMPLES = 5000
SEED = 0
PERCENT = 95
_AT_ONCE = 2**22  # numbers of a matrix of weights that are made floating-point together


def interval(scored: Scored, metric: str) -> tuple[float, float] | None:
    """The interval of the mean over the leaf tasks of their means of a metric, each with the same weight.

    All samples of a video are drawn together, over all leaf tasks that have it. None where a leaf task has not scored
    its samples by this metric, and where there are no two videos to choose from.
    """
    means = _means(scored, metric)
    return None if means is None else _middle(means)


def difference(one: Scored, other: Scored, metric: str) -> tuple[float, float] | None:
    """The interval of how much higher `one` is than `other` on the same samples, drawing the same videos for both.

    None as for `interval`, of either. Raises ValueError if they are scored on other samples.
    """
    first, second = _means(one, metric), _means(other, metric)
    if first is None or second is None:
        return None
    for leaf in one.keys() | other.keys():
        if one.get(leaf, {}).get("clusters") != other.get(leaf, {}).get("clusters"):
            raise ValueError(f"{leaf}: two runs with different samples cannot be compared in pairs")
    return _middle(first - second)


def _middle(means: np.ndarray) -> tuple[float, float]:
    tail = (100 - PERCENT) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _means(scored: Scored, metric: str) -> np.ndarray | None:
    """The mean over the leaf tasks in each resample, [RESAMPLES]."""
    if not scored or any(metric not in leaf["values"] for leaf in scored.values()):
        return None
    sums, counts = _by_cluster(scored, metric)
    drawn, asked = (np.zeros((RESAMPLES, len(scored))) for _ in range(2))
    for number, stratum in enumerate(_strata(counts)):
        if len(stratum) < 2:
            return None
        weights = _weights(len(stratum), number)
        step = max(1, _AT_ONCE // len(stratum))
        for start in range(0, RESAMPLES, step):
            some = weights[start : start + step].astype(np.float64)
            drawn[start : start + step] += some @ sums[stratum]
            asked[start : start + step] += some @ counts[stratum]
    return (drawn / asked).mean(1)


def _by_cluster(scored: Scored, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the scores and number of the samples of each cluster in each leaf task, [clusters, leaf tasks]."""
    numbers = {number for leaf in scored.values() for number in leaf["clusters"]}
    place = {number: row for row, number in enumerate(sorted(numbers))}
    sums, counts = (np.zeros((len(place), len(scored))) for _ in range(2))
    for column, leaf in enumerate(scored.values()):
        rows = [place[number] for number in leaf["clusters"]]
        np.add.at(sums[:, column], rows, leaf["values"][metric])
        np.add.at(counts[:, column], rows, 1)
    return sums, counts


def _strata(counts: np.ndarray) -> Sequence[np.ndarray]:
    """Clusters that stand in the same leaf tasks; drawn within these, every leaf task has samples in every resample."""
    strata: dict[bytes, list[int]] = {}
    for row, there in enumerate(counts > 0):
        strata.setdefault(there.tobytes(), []).append(row)
    return [np.array(rows) for rows in strata.values()]


@lru_cache(maxsize=8)
def _weights(size: int, number: int) -> np.ndarray:
    """Counts of how often each of `size` clusters was drawn in each resample, uint16 [RESAMPLES, size].

    The raw stream of the generator is the same in all releases of numpy, what else it draws is not.
    """
    stream, rows, found = np.random.PCG64([SEED, size, number]), max(1, _AT_ONCE // size), []
    for start in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - start)
        drawn = (stream.random_raw(count * size) % size).astype(np.int64).reshape(count, size)
        places = drawn + size * np.arange(count)[:, None]
        found.append(np.bincount(places.ravel(), minlength=count * size).astype(np.uint16).reshape(count, size))
    return np.concatenate(found)
