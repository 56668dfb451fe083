"""Counts of the paper and of the released code, and the door of every ratio."""

import json
from pathlib import Path

import numpy as np
import pytest

from dycoke import budget
from dycoke.methods import DynamicPruning

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "ttm_official.json").read_text())["counts"]


@pytest.mark.parametrize("k,kept", [(0.7, 58), (0.5, 98), (0.3, 137), (0.9, 19), (1.0, 0), (0.0, 196)])
def test_kept_per_frame_floors_in_double(k, kept):
    assert budget.kept_per_frame(k, 196) == kept


def test_kept_per_frame_of_a_narrow_number():
    assert budget.kept_per_frame(np.float32(0.9), 10) == int((1 - float(np.float32(0.9))) * 10)


@pytest.mark.parametrize("t,count", [(1, 196), (2, 254), (3, 312), (4, 370), (5, 566), (32, 2960), (33, 3156)])
def test_windows_count(t, count):
    assert budget.windows_count(t, 196, 0.7) == count


@pytest.mark.parametrize("t", GOLDEN)
def test_official_count_is_what_the_released_code_returned(t):
    for k, count in GOLDEN[t].items():
        assert budget.official_count(int(t), 196, float(k)) == count


@pytest.mark.parametrize(
    "keep,total,count", [(1.0, 7, 7), (0.5, 7, 4), (0.475, 6272, 2979), (1e-9, 10, 1), (0.99, 1, 1)]
)
def test_from_keep(keep, total, count):
    assert budget.from_keep(keep, total) == count


@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan"), float("inf")])
def test_ratio_out_of_range(value):
    with pytest.raises(ValueError, match=r"k=.*expected a number in \[0, 1\]"):
        budget.check_ratio("k", value)


def test_ratio_of_another_type_or_zero():
    for value in ("0.5", None, True):
        with pytest.raises(TypeError, match="expected a number"):
            budget.check_ratio("k", value)
    with pytest.raises(ValueError, match=r"keep=0: expected a number in \(0, 1\]"):
        budget.check_ratio("keep", 0, above_zero=True)


@pytest.mark.parametrize("variant,budgets", [("paper", [0, 0, 1, 6]), ("official", [0, 1, 1, 7])])
def test_visual_tokens_that_dynamic_pruning_reads(variant, budgets):
    """The released code reads the last one besides; where there is none, none."""
    policy = DynamicPruning(2, 0.7, variant)
    assert [policy.budget(visual) for visual in (0, 1, 4, 21)] == budgets


@pytest.mark.parametrize("kept,dominant", [(1, 0), (2, 1), (20, 16), (30, 25), (40, 33), (50, 42), (64, 54)])
def test_dominant_tokens_of_the_video_port(kept, dominant):
    assert budget.dominant_tokens(kept) == dominant


@pytest.mark.parametrize(
    "outliers,frames,per_frame,kept",
    [(0, 4, 9, 1), (40, 2, 100, 20), (39, 2, 100, 19), (200, 2, 100, 25), (3, 1, 3, 1), (928, 32, 169, 28)],
)
def test_outlier_tokens(outliers, frames, per_frame, kept):
    assert budget.outlier_tokens(outliers, frames, per_frame) == kept


def test_shares_round_in_double_as_the_released_codes_do():
    assert [budget.share_floor(0.1, 196), budget.share_floor(0.4, 19), budget.share_floor(0.1, 3, least=1)] == [
        19,
        7,
        1,
    ]
    assert [budget.share_round(0.5, 5), budget.share_round(0.5, 7), budget.share_round(2.0, 3)] == [2, 4, 3]
    assert [budget.share_ceil(0.25, 9), budget.share_ceil(1.25, 4), budget.share_ceil(0.5, 0)] == [3, 4, 0]


@pytest.mark.parametrize(
    "counts,total,shares",
    [
        ([5, 3, 2], 10, [5, 3, 2]),
        ([5, 3, 2], 99, [5, 3, 2]),
        ([10, 10, 10], 10, [4, 3, 3]),  # equal remainders: the first
        ([100, 1, 0], 50, [49, 1, 0]),  # one each before the remainders
        ([6, 3, 1], 5, [3, 1, 1]),
        ([3, 3], 0, [0, 0]),
        ([], 0, []),
    ],
)
def test_share_out(counts, total, shares):
    assert budget.share_out(counts, total) == shares


def test_share_out_is_exact_and_nobody_gets_more_than_he_has():
    random = np.random.RandomState(0)
    for _ in range(200):
        counts = random.randint(0, 20, size=random.randint(1, 9)).tolist()
        total = random.randint(0, sum(counts) + 1)
        shares = budget.share_out(counts, total)
        assert sum(shares) == total and all(0 <= s <= c for s, c in zip(shares, counts, strict=True))
        if 0 < total < sum(counts):
            assert all(abs(s - c * total / sum(counts)) < 1 for s, c in zip(shares, counts, strict=True))


@pytest.mark.parametrize("value,error", [(0, ValueError), (2.0, TypeError), (True, TypeError), ("3", TypeError)])
def test_count_out_of_range_or_of_another_type(value, error):
    with pytest.raises(error, match=r"segments=.*: expected an integer"):
        budget.check_count("segments", value)


def test_a_power_is_that_of_the_decimal_digits():
    assert [budget.decimal_power(0.7, power) for power in (1, 2, 3)] == [0.7, 0.49, 0.343]
    assert 0.7 * 0.7 < 0.49 and budget.share_floor(budget.decimal_power(0.7, 2), 100) == 49
    assert budget.decimal_power(1, 3) == 1.0 and budget.decimal_power(1e-7, 2) == 1e-14
