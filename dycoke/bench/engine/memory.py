"""The memory part: peak memory of every stage against the number of frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dycoke.bench.engine.model import Request, make_request
from dycoke.bench.engine.setting import DYCOKE, HOST, OURS, STOCK_SDPA, Setting
from dycoke.bench.engine.versions import Subject, Subjects

ANSWER = 16  # tokens


def measure_memory(model: nn.Module, setting: Setting) -> dict[str, Any]:
    """Peak bytes by stage of an answer, for each version and number of frames, alone on the model.

    On a GPU these are the allocator's and hold the weights, which all versions share; else the process's.
    """
    versions = [name for name in setting.versions if name == STOCK_SDPA or name.startswith(OURS)]
    host = [HOST] if DYCOKE in versions and torch.cuda.is_available() else []
    weights = sum(weight.numel() * weight.itemsize for weight in model.parameters())
    results = [_peaks(model, setting, name, frames) for frames in setting.clips for name in [*versions, *host]]
    return {"answer": ANSWER, "weights_bytes": weights, "results": results}


def _peaks(model: nn.Module, setting: Setting, name: str, frames: int) -> dict[str, Any]:
    told: dict[str, Any] = {"version": name, "frames": frames}
    try:
        with Subjects(model, setting) as subjects:
            return told | _stages(subjects[name], make_request(model, setting, frames))
    except torch.cuda.OutOfMemoryError as error:
        return told | {"failed": f"out of memory: {' '.join(str(error).split())}"}


def _stages(subject: Subject, request: Request) -> dict[str, Any]:
    with subject.watched():
        subject.generate(request, ANSWER)
        report = subject.report
    stages = {stage: each.peak_bytes for stage, each in report.stages.items() if each.peak_bytes is not None}
    return {
        "tokens": report.stages["prefill"].tokens,
        "stages_bytes": stages,
        "peak_bytes": max(stages.values(), default=None),
        "cache_bytes": None if report.cache is None else report.cache.device_bytes,
        "loop": subject.loop,
    }
