"""The decode part: time per token at batch 1 in the steady state of `generate`, against the bytes a step must read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dycoke.bench.engine.cost import against_floor, mean_decoded, step_bytes, tokens_of_plan
from dycoke.bench.engine.model import Request
from dycoke.bench.engine.setting import FULL, OURS, SETTLED, STATIC_GRAPH, STOCK, Setting
from dycoke.bench.engine.static import StaticSteps
from dycoke.bench.engine.versions import Subject, Subjects
from dycoke.bench.timing import Times, ratio, row

TRIES = 5


def measure_decode(subjects: Subjects, setting: Setting, request: Request, ceilings: dict[str, Any]) -> dict[str, Any]:
    """Rows with their floors, and ratios with their range. Raises RuntimeError if a version did not do its steps."""
    versions = [name for name in setting.versions if name not in subjects.skipped]
    measures = {name: _measure(subjects[name], setting, request) for name in versions}
    samples: dict[str, list[float]] = {name: [] for name in versions}
    for _ in range(setting.rounds):
        for name, measure in measures.items():
            samples[name].append(measure())
    rows = []
    for name in versions:
        told = row(name, Times(tuple(samples[name])), setting.rounds)
        told |= against_floor(told["median_ms"], floor_bytes(setting, name), ceilings)
        rows.append(told | {"loop": subjects[name].loop})
    return {
        "tokens": {"first": SETTLED + 1, "last": SETTLED + setting.answer, "prompt": request.length},
        "results": rows,
        "ratios": [ratio(rows, *pair) for pair in pairs(versions)],
        "skipped": dict(subjects.skipped),
    }


def _measure(subject: Subject, setting: Setting, request: Request) -> Callable[[], float]:
    """Sampler of one version: milliseconds per token."""
    if subject.name == STATIC_GRAPH:
        room = setting.rounds * setting.answer
        steps = StaticSteps(subject.model, setting, request.length, 1, room)
        return lambda: steps.time(setting.answer)
    return lambda: per_token(
        lambda: subject.timed(request, SETTLED),
        lambda: subject.timed(request, SETTLED + setting.answer),
        setting.answer,
    )


def per_token(short: Callable[[], float], long: Callable[[], float], tokens: int) -> float:
    """Milliseconds per token of an answer that is `tokens` longer than another; what both pay once cancels out.

    short, long: take the milliseconds of the answers. Both are taken anew where the longer one took less, which on a
    busy machine a small model's may. Raises RuntimeError where that happens TRIES times in a row.
    """
    for _ in range(TRIES):
        less, more = short(), long()
        if more > less:
            return (more - less) / tokens
    raise RuntimeError(f"{tokens} tokens more took {more:.1f} ms, without them {less:.1f}, {TRIES} times: too noisy")


def floor_bytes(setting: Setting, version: str) -> float | None:
    """Bytes a steady step of a version reads at least at batch 1; None where that depends on the video's content."""
    tokens = tokens_of_plan(setting, version, setting.frames)
    if tokens is None:
        return None
    return step_bytes(setting, tokens, mean_decoded(SETTLED, SETTLED + setting.answer))


def pairs(versions: list[str]) -> list[tuple[str, str]]:
    """Pairs of versions whose times are divided: each stock version's by each of ours, and our engine's with full."""
    ours = [name for name in versions if name.startswith(OURS)]
    stock = [(other, name) for other in versions if other in STOCK for name in ours]
    return stock + [(FULL, name) for name in ours if FULL in ours and name != FULL]
