"""The answer parts: from a video to the first token and to the whole answer, stage by stage."""

from __future__ import annotations

import statistics
from typing import Any

from dycoke.bench.engine.cost import (
    against_floor,
    against_matmul,
    compress_bytes,
    prefill_flops,
    shares,
    tokens_of_plan,
    vision_flops,
)
from dycoke.bench.engine.decode import pairs
from dycoke.bench.engine.model import Request
from dycoke.bench.engine.setting import STATIC_GRAPH, STOCK_EAGER, Setting
from dycoke.bench.engine.versions import Subject, Subjects
from dycoke.bench.timing import Times, ratio, row

Stages = dict[str, float]


def measure_answer(
    subjects: Subjects, setting: Setting, request: Request, tokens: int, ceilings: dict[str, Any]
) -> dict[str, Any]:
    """Times from pixels on the device to `tokens` tokens on the host: totals with ratios, stages with shares and rates.

    A stock version's total is taken with nothing on it; its stages are those of another answer, that was watched.
    """
    versions = [
        name for name in setting.versions if name not in (STOCK_EAGER, STATIC_GRAPH) and name not in subjects.skipped
    ]
    totals: dict[str, list[float]] = {name: [] for name in versions}
    watched: dict[str, list[tuple[float, Stages]]] = {name: [] for name in versions}
    kept: dict[str, int] = {}
    for _ in range(setting.rounds):
        for name in versions:
            total, stages, kept[name] = _sample(subjects[name], request, tokens)
            totals[name].append(total)
            watched[name].append(stages)
    rows = []
    for name in versions:
        told = row(name, Times(tuple(totals[name])), setting.rounds)
        told |= _stages(watched[name]) | {"visual_kept": kept[name], "loop": subjects[name].loop}
        rows.append(told | {"rates": _rates(setting, name, told["stages_ms"], kept[name], ceilings)})
    return {"answer": tokens, "results": rows, "ratios": [ratio(rows, *pair) for pair in pairs(versions)]}


def _sample(subject: Subject, request: Request, tokens: int) -> tuple[float, tuple[float, Stages], int]:
    """Total ms, and of the answer whose stages are told its total, those stages, and the visual tokens kept."""
    total = staged = subject.timed(request, tokens)
    if subject.loop is None:
        with subject.watched():
            staged = subject.timed(request, tokens)
    report = subject.report
    ran = {name: stage for name, stage in report.stages.items() if stage.ms is not None}
    # The first token comes from prefill; what a loop does behind it decodes nothing.
    stages = {name: stage.ms for name, stage in ran.items() if name != "decode" or stage.tokens}
    return total, (staged, stages), report.stages["compress"].tokens


def _stages(watched: list[tuple[float, Stages]]) -> dict[str, Any]:
    """Median ms of each stage, and its share as the median of the answers' shares; what is left is "rest"."""
    names = [*watched[0][1], "rest"]  # in the order of the report
    of_each = [shares(stages, total) for total, stages in watched]
    whole = [stages | {"rest": total - sum(stages.values())} for total, stages in watched]
    return {
        "stages_ms": {name: statistics.median(stages[name] for stages in whole) for name in names},
        "shares": {name: statistics.median(each[name] for each in of_each) for name in names},
        "watched_ms": statistics.median(total for total, _ in watched),
    }


def _rates(setting: Setting, version: str, stages: Stages, kept: int, ceilings: dict[str, Any]) -> dict[str, Any]:
    """Bytes and operations per second of the stages that have them, against the ceilings."""
    tokens = tokens_of_plan(setting, version, setting.frames)
    vision = vision_flops(setting.vision, setting.language, setting.frames)
    prefill = None if tokens is None else prefill_flops(setting, tokens)
    rates = {
        "vision": against_matmul(stages["vision"], vision, ceilings),
        "prefill": against_matmul(stages["prefill"], prefill, ceilings),
    }
    if stages.get("compress"):
        moved = compress_bytes(setting, setting.frames, kept)
        rates["compress"] = against_floor(stages["compress"], moved, ceilings)
    return rates
