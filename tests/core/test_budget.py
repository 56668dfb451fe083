"""Counts of the paper and of the released code, and the door of every ratio."""

import numpy as np
import pytest

from dycoke import budget
from dycoke.methods import DynamicPruning


@pytest.mark.parametrize("k,kept", [(0.7, 58), (0.5, 98), (0.3, 137), (0.9, 19), (1.0, 0), (0.0, 196)])
def test_kept_per_frame_floors_in_double(k, kept):
    assert budget.kept_per_frame(k, 196) == kept


def test_kept_per_frame_of_a_narrow_number():
    assert budget.kept_per_frame(np.float32(0.9), 10) == int((1 - float(np.float32(0.9))) * 10)


@pytest.mark.parametrize("t,count", [(1, 196), (2, 254), (3, 312), (4, 370), (5, 566), (32, 2960), (33, 3156)])
def test_windows_count(t, count):
    assert budget.windows_count(t, 196, 0.7) == count


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


def test_shares_round_in_double_as_the_released_codes_do():
    assert [budget.share_floor(0.1, 196), budget.share_floor(0.4, 19), budget.share_floor(0.1, 3, least=1)] == [
        19,
        7,
        1,
    ]
    assert [budget.share_round(0.5, 5), budget.share_round(0.5, 7), budget.share_round(2.0, 3)] == [2, 4, 3]
    assert [budget.share_ceil(0.25, 9), budget.share_ceil(1.25, 4), budget.share_ceil(0.5, 0)] == [3, 4, 0]


@pytest.mark.parametrize("value,error", [(0, ValueError), (2.0, TypeError), (True, TypeError), ("3", TypeError)])
def test_count_out_of_range_or_of_another_type(value, error):
    with pytest.raises(error, match=r"segments=.*: expected an integer"):
        budget.check_count("segments", value)
