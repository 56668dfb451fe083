"""Ratios into counts, as several methods round them; what one alone rounds in its own way stands in its file."""

from __future__ import annotations

import math
from numbers import Real

# DyCoke's options in its paper: the defaults of the method, and what the benchmarks time.
PAPER_K, PAPER_L, PAPER_P = 0.7, 3, 0.7


def check_ratio(name: str, value: float, *, above_zero: bool = False, below_one: bool = False) -> None:
    """Raise TypeError or ValueError unless `value` is a number in [0, 1], without 0 or 1 where asked."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r}: expected a number")
    if not (0.0 <= value <= 1.0) or (above_zero and value == 0.0) or (below_one and value == 1.0):
        low, high = "(" if above_zero else "[", ")" if below_one else "]"
        raise ValueError(f"{name}={value!r}: expected a number in {low}0, 1{high}")


def kept_per_frame(k: float, per_frame: int) -> int:
    """Tokens a compared frame keeps in temporal merging: int((1 - K) * N) in double, as the released code counts.

    K is the share removed. K = .7 and N = 196 give 58; K = 0 gives N; K = 1 gives 0. Source: DyCoke, section 3.2.
    """
    check_ratio("k", k)
    return int((1 - float(k)) * per_frame)


def windows_count(frames: int, per_frame: int, k: float) -> int:
    """Tokens temporal merging keeps of T frames of N: one whole frame in each window of 4 (the tail's too)."""
    whole = -(-frames // 4)
    return whole * per_frame + (frames - whole) * kept_per_frame(k, per_frame)


def from_keep(keep: float, total: int) -> int:
    """Count for a share `keep` in (0, 1] of `total`: nearest integer (ties to even), at least 1, at most `total`."""
    check_ratio("keep", keep, above_zero=True)
    return min(total, max(1, round(keep * total)))


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise TypeError or ValueError unless `value` is an integer from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r}: expected an integer")
    if value < least:
        raise ValueError(f"{name}={value!r}: expected an integer from {least}")


def share_floor(share: float, total: int, least: int = 0) -> int:
    """int(total * share) in double, as released code counts it, but `least` at least and `total` at most."""
    return min(total, max(least, int(total * float(share))))


def share_round(share: float, total: int) -> int:
    """round(total * share) in double, ties to even, as released code counts it; at most `total`."""
    return min(total, round(total * float(share)))


def share_ceil(share: float, total: int) -> int:
    """ceil(total * share) in double, as released code counts it; at most `total`."""
    return min(total, math.ceil(total * float(share)))
