"""Times taken in rounds, so that a ratio of two of them comes with its spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from dycoke.bench.timing import Times


def row(name: str, times: Times, rounds: int) -> dict[str, Any]:
    """What a record tells of one version: runs were taken in `rounds` of the same length."""
    each = len(times.samples) // rounds
    medians = [statistics.median(times.samples[i * each : (i + 1) * each]) for i in range(rounds)]
    return {
        "version": name,
        "median_ms": times.median_ms,
        "iqr_ms": times.iqr_ms,
        "round_medians_ms": medians,
        "runs": len(times.samples),
    }


def ratio(rows: Sequence[dict[str, Any]], above: str, below: str) -> dict[str, Any]:
    """Time of version `above` over that of `below`: of the medians, and in every round."""
    over, under = (next(r for r in rows if r["version"] == name) for name in (above, below))
    each = [a / b for a, b in zip(over["round_medians_ms"], under["round_medians_ms"], strict=True)]
    return {
        "ratio": f"{above} / {below}",
        "of_medians": over["median_ms"] / under["median_ms"],
        "rounds": each,
        "range": [min(each), max(each)],
    }
