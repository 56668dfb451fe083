"""Intervals against what is known in closed form, and what a video with several questions does to them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dycoke.eval.report import bootstrap
from dycoke.eval.report.bootstrap import difference, interval


def leaf(values, clusters=None, metric="right"):
    values = list(map(float, values))
    return {"clusters": list(range(len(values)) if clusters is None else clusters), "values": {metric: values}}


def coins(count, chance=0.7, seed=0):
    return (np.random.RandomState(seed).rand(count) < chance).astype(float)


def width(ends):
    return ends[1] - ends[0]


@pytest.mark.parametrize(("count", "chance"), [(400, 0.7), (2000, 0.5), (1000, 0.95)])
def test_of_right_and_wrong_answers_it_is_the_normal_interval(count, chance):
    scores = coins(count, chance)
    low, high = interval({"a": leaf(scores)}, "right")
    mean, half = scores.mean(), 1.96 * scores.std() / math.sqrt(count)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.08 * half)


def test_questions_about_one_video_are_drawn_together():
    scores = coins(100)
    of_videos = interval({"a": leaf(scores)}, "right")
    four_each = np.repeat(scores, 4), np.repeat(np.arange(100), 4)
    assert interval({"a": leaf(*four_each)}, "right") == pytest.approx(of_videos)
    alone = interval({"a": leaf(four_each[0])}, "right")
    assert width(of_videos) == pytest.approx(2 * width(alone), rel=0.1)


def test_families_that_ask_about_the_same_videos_are_drawn_together():
    scores = coins(200)
    one = interval({"a": leaf(scores)}, "right")
    same = {"a": leaf(scores), "b": leaf(scores)}
    assert interval(same, "right") == pytest.approx(one)
    others = {"a": leaf(scores), "b": leaf(scores, range(200, 400))}
    assert width(interval(others, "right")) == pytest.approx(width(one) / math.sqrt(2), rel=0.1)
    opposite = {"a": leaf(scores), "b": leaf(1 - scores)}
    assert interval(opposite, "right") == pytest.approx((0.5, 0.5))


def test_leaf_tasks_weigh_the_same_whatever_their_sizes():
    large, small = coins(1000, 0.9), coins(50, 0.4, seed=1)
    low, high = interval({"a": leaf(large), "b": leaf(small, range(1000, 1050))}, "right")
    assert low < (large.mean() + small.mean()) / 2 < high
    half = 1.96 * math.hypot(large.std() / math.sqrt(1000), small.std() / math.sqrt(50)) / 2
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)


def test_a_video_may_be_missing_in_some_leaf_tasks():
    """Each leaf task has samples in every resample, though only two videos stand in both."""
    scored = {"a": leaf([1, 0, 1, 0], [0, 1, 2, 3]), "b": leaf([1, 0, 1, 0], [2, 3, 4, 5])}
    low, high = interval(scored, "right")
    assert 0 < low < 0.5 < high < 1


def test_a_pair_is_compared_on_the_same_videos():
    hard = coins(300, 0.6)  # what a video asks is hard or easy for both
    better, worse = hard.copy(), hard.copy()
    better[:30], worse[:30] = 1, 0
    one, other = {"a": leaf(better)}, {"a": leaf(worse)}
    low, high = difference(one, other, "right")
    assert low < 0.1 < high
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(0.1 * 0.9 / 300), rel=0.08)
    apart = math.hypot(width(interval(one, "right")), width(interval(other, "right")))
    assert width((low, high)) < 0.6 * apart
    assert difference(other, one, "right") == pytest.approx((-high, -low))
    assert difference(one, one, "right") == (0, 0)


def test_other_samples_are_not_compared():
    one = {"a": leaf([1, 0, 1])}
    for other in ({"a": leaf([1, 0, 1], [0, 1, 1])}, {"b": leaf([1, 0, 1])}, {"a": leaf([1, 0])}):
        with pytest.raises(ValueError, match="different samples cannot be compared"):
            difference(one, other, "right")


def test_without_scores_or_two_videos_there_is_no_interval():
    assert interval({}, "right") is None
    assert interval({"a": leaf([1])}, "right") is None
    assert interval({"a": leaf([1, 0], [5, 5])}, "right") is None
    assert interval({"a": leaf([1, 0]), "b": leaf([1, 0], metric="f1")}, "right") is None
    assert difference({"a": leaf([1])}, {"a": leaf([0])}, "right") is None
    assert difference({"a": leaf([1, 0])}, {}, "right") is None and difference({}, {"a": leaf([1, 0])}, "right") is None


def test_the_draws_are_the_same_everywhere_and_in_parts(monkeypatch):
    scored = {"a": leaf(np.arange(37) ** 2 % 11)}
    whole = interval(scored, "right")
    assert whole == pytest.approx((3.0, 181 / 37))
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 1000)
    bootstrap._weights.cache_clear()
    assert interval(scored, "right") == pytest.approx(whole)
    assert (bootstrap._weights(37, 0).sum(1) == 37).all()
    assert not (bootstrap._weights(37, 0) == bootstrap._weights(37, 1)).all()
