"""`dycoke bench decode`: a step with dynamic pruning against the same loop without, its attention, its memory."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from dycoke.bench.decode.attention import measure_attention
from dycoke.bench.decode.memory import measure_memory
from dycoke.bench.decode.model import Loop, build_model, make_prompt
from dycoke.bench.decode.setting import Setting
from dycoke.bench.decode.step import measure_step
from dycoke.bench.decode.tables import print_head, print_part
from dycoke.lab.record import circumstances, write_record


def run(setting: Setting, json: Path | None, out: Console) -> None:
    """Measure the parts asked for, print each and, where asked, write the record.

    A part that fails is in the record as such, the others are measured all the same; then RuntimeError is raised.
    """
    if json is not None and not json.parent.is_dir():
        raise ValueError(f"--json {json}: no folder {json.parent}")
    record: dict[str, Any] = {"benchmark": "decode", **circumstances(), "setting": asdict(setting)}
    record["versions"]["transformers"] = transformers.__version__
    print_head(record, setting, out)
    failures = []
    try:
        with torch.no_grad():
            for part, measure in _parts(setting).items():
                begin = time.perf_counter()
                try:
                    record[part] = measure()
                    print_part(part, record[part], out)
                except RuntimeError as error:
                    record[part] = {"failed": str(error)}
                    failures.append(f"{part}: {error}")
                record[part]["seconds"] = time.perf_counter() - begin
    finally:
        record["complete"] = not failures and all(part in record for part in setting.parts)
        if json is not None:
            write_record(json, record)
    if failures:
        raise RuntimeError("; ".join(failures))


def _parts(setting: Setting) -> dict[str, Any]:
    """What measures each part asked for, in the order in which they run; the model is built once, when one needs it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = []

    def model() -> torch.nn.Module:
        if not models:
            models.append(build_model(setting, device))
            _warm_up(models[0], setting)
        return models[0]

    measures = {
        "step": lambda: measure_step(model(), setting),
        "memory": lambda: measure_memory(model(), setting),
        "attention": lambda: measure_attention(setting),
    }
    return {part: measure for part, measure in measures.items() if part in setting.parts}


def _warm_up(model: torch.nn.Module, setting: Setting) -> None:
    """Decode for a while: a fresh machine's host is several times too slow at first."""
    prompt, end = make_prompt(model, setting.visual), time.monotonic() + setting.warm_up
    while time.monotonic() < end:
        loop = Loop(model, prompt, None, room=1)
        for _ in range(100):
            loop.step()[0, 0].item()
            if time.monotonic() >= end:
                return
