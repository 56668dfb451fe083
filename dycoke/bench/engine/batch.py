"""The batch part: tokens per second of many prompts at once, against the bytes a step of so many must read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from dycoke.bench.engine.cost import against_floor, mean_decoded, step_bytes, tokens_of_plan
from dycoke.bench.engine.decode import pairs
from dycoke.bench.engine.model import make_request, stand_in_features
from dycoke.bench.engine.setting import SETTLED, STATIC_GRAPH, STOCK, Setting
from dycoke.bench.engine.static import StaticSteps
from dycoke.bench.engine.versions import Subject, Subjects, release, unserved
from dycoke.bench.timing import Times, ratio, row


def measure_batch(model: nn.Module, setting: Setting, ceilings: dict[str, Any]) -> dict[str, Any]:
    """For each number of rows: milliseconds per step, tokens per second, floors and ratios.

    One version is at work at a time, because the caches of two would not fit; one that does not fit by itself is told
    as such. Videos are random features, the same for every row.
    """
    skipped = unserved(setting)
    wanted = [name for name in setting.versions if name not in STOCK or name == STATIC_GRAPH]
    versions = [name for name in wanted if name not in skipped]
    measured = [_of_rows(model, setting, rows, versions, ceilings) for rows in setting.batches]
    return {"steps": setting.answer, "batches": measured, "skipped": skipped}


def _of_rows(
    model: nn.Module, setting: Setting, rows: int, versions: list[str], ceilings: dict[str, Any]
) -> dict[str, Any]:
    told, failed = [], {}
    for name in versions:
        try:
            samples, loop = _version(model, setting, name, rows)
        except torch.cuda.OutOfMemoryError as error:
            failed[name] = f"out of memory: {' '.join(str(error).split())}"
            continue
        finally:
            release()
        each = row(name, Times(tuple(samples)), setting.batch_rounds)
        each |= against_floor(each["median_ms"], floor_bytes(setting, name, rows), ceilings)
        told.append(each | {"tokens_per_s": rows * 1e3 / each["median_ms"], "loop": loop})
    names = [each["version"] for each in told]
    return {"rows": rows, "results": told, "ratios": [ratio(told, *pair) for pair in pairs(names)], "failed": failed}


def _version(model: nn.Module, setting: Setting, name: str, rows: int) -> tuple[list[float], str | None]:
    """One sample per round: milliseconds per step of so many rows."""
    with Subjects(model, setting) as subjects, ExitStack() as undo:
        subject = subjects[name]
        take = _static(subject, setting, rows) if name == STATIC_GRAPH else _ours(subject, setting, rows, undo)
        return [take() for _ in range(setting.batch_rounds)], subject.loop


def _static(subject: Subject, setting: Setting, rows: int) -> Callable[[], float]:
    length = setting.visual + setting.text
    steps = StaticSteps(subject.model, setting, length, rows, setting.batch_rounds * setting.answer)
    return lambda: steps.time(setting.answer)


def _ours(subject: Subject, setting: Setting, rows: int, undo: ExitStack) -> Callable[[], float]:
    """Steps by the events of the report; an answer ahead of the first captures what is captured."""
    whole = make_request(subject.model, setting, setting.frames, rows)
    request = undo.enter_context(stand_in_features(subject.model, setting, whole))
    subject.generate(request, SETTLED)

    def take() -> float:
        subject.generate(request, setting.answer + 1)
        decode = subject.report.stages["decode"]
        if decode.tokens != rows * setting.answer:
            raise RuntimeError(f"{subject.name}: {decode.tokens} tokens decoded; expected {rows * setting.answer}")
        return decode.ms / setting.answer

    return take


def floor_bytes(setting: Setting, version: str, rows: int) -> float | None:
    """Bytes a step of so many rows reads at least; None where that depends on the videos' content."""
    tokens = tokens_of_plan(setting, version, setting.frames)
    return None if tokens is None else step_bytes(setting, tokens, mean_decoded(1, setting.answer + 1), rows)
