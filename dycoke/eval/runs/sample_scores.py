"""What each sample of a run scored and which samples are about one video: what the interval of a score is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from dycoke.eval.benchmarks import Scores

Scored = Mapping[str, Mapping[str, Any]]
"""{leaf task: {"clusters": [a number for the video of each sample], "values": {metric: [score of each sample]}}}"""

_UNITS = (1, 100)  # of a mean: some tasks make percent of it


def scored(results: Mapping[str, Any], scores: Scores) -> dict[str, dict[str, Any]]:
    """The samples that lmms-eval logged, by doc_id: the video of each and what it scored, in the unit of `scores`.

    A task says with lmms-eval's cluster_key which field of a document names its video; without one each document
    stands for itself. A metric that is no mean over its samples is left out, and a leaf task that has no other.
    """
    numbers: dict[Any, int] = {}
    found = {}
    for leaf, logged in results["samples"].items():
        config = results["configs"][leaf]
        samples = {sample["doc_id"]: sample for sample in logged}
        ordered = [samples[doc_id] for doc_id in sorted(samples)]
        values = {}
        for metric, given in scores[leaf].items():
            each = _values([sample.get(metric) for sample in ordered], config.get("score_key") or "score", given)
            if len(ordered) == len(logged) and each is not None:
                values[metric] = each
        if values:
            videos = (_video(leaf, sample, config.get("cluster_key")) for sample in ordered)
            clusters = [numbers.setdefault(video, len(numbers)) for video in videos]
            found[leaf] = {"clusters": clusters, "values": values}
    return found


def _values(samples: Sequence[Any], key: str, score: Any) -> list[float] | None:
    """The number of each sample, such that their mean is the score; None where there are none such.

    key: what lmms-eval looks for in a sample that is a mapping.
    """
    numbers = [sample.get(key) if isinstance(sample, Mapping) else sample for sample in samples]
    if not numbers or score is None or not all(isinstance(number, int | float) for number in numbers):
        return None
    mean = fmean(numbers)
    unit = next((unit for unit in _UNITS if math.isclose(unit * mean, score, rel_tol=1e-9)), None)
    return None if unit is None else [float(unit * number) for number in numbers]


def _video(leaf: str, sample: Mapping[str, Any], key: str | None) -> tuple[Any, ...]:
    video = None if key is None else sample["doc"].get(key)
    return (leaf, sample["doc_id"]) if video is None else (video,)
