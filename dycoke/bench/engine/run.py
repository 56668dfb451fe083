"""`dycoke bench engine`: whole answers about a video, ours and stock transformers' side by side in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from dycoke.bench.engine.answer import measure_answer
from dycoke.bench.engine.batch import measure_batch
from dycoke.bench.engine.ceilings import measure_ceilings
from dycoke.bench.engine.cost import tokens_of_plan
from dycoke.bench.engine.decode import measure_decode
from dycoke.bench.engine.frames import measure_frames
from dycoke.bench.engine.memory import measure_memory
from dycoke.bench.engine.model import build_llava, make_request
from dycoke.bench.engine.parity import measure_parity
from dycoke.bench.engine.setting import SETTLED, Setting
from dycoke.bench.engine.tables import print_head, print_part
from dycoke.bench.engine.versions import Subjects
from dycoke.lab.record import circumstances, write_record

BENCHMARK = "engine"


def run(setting: Setting, json: Path | None, out: Console) -> None:
    """Measure the parts asked for, print each and, where asked, write the record anew behind each.

    A part that fails is in the record as such, the others are measured all the same; then RuntimeError is raised.
    Raises ValueError for a method that does not fit the model's layers or the video.
    """
    for version in setting.versions:
        tokens_of_plan(setting, version, setting.frames)
    if json is not None and not json.parent.is_dir():
        raise ValueError(f"--json {json}: no folder {json.parent}")
    record: dict[str, Any] = {"benchmark": BENCHMARK, **circumstances(), "setting": asdict(setting), "complete": False}
    record["versions"]["transformers"] = transformers.__version__
    record["gpus"] = torch.cuda.device_count()

    def write() -> None:
        if json is not None:
            write_record(json, record)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.no_grad():
        record["ceilings"] = measure_ceilings(device, setting.torch_dtype)
        print_head(record, out)
        failures = _measure(_Parts(setting, device, record["ceilings"]), record, write, out)
    record["complete"] = not failures
    write()
    if failures:
        raise RuntimeError("; ".join(failures))


def _measure(parts: _Parts, record: dict[str, Any], write: Callable[[], None], out: Console) -> list[str]:
    """Let every part write into the record; returns what failed, one line each."""
    failures = []
    for part, measure in parts.measures().items():
        begin = time.perf_counter()
        try:
            record[part] = measure()
            print_part(part, record[part], out)
        except RuntimeError as error:
            record[part] = {"failed": str(error)}
            failures.append(f"{part}: {error}")
        record[part]["seconds"] = time.perf_counter() - begin
        write()
    return failures


class _Parts:
    """Measures of each part, and the model and the versions that parts share."""

    def __init__(self, setting: Setting, device: str, ceilings: dict[str, Any]) -> None:
        self._setting, self._device, self._ceilings = setting, device, ceilings
        self._model: torch.nn.Module | None = None
        self._subjects: Subjects | None = None

    def measures(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Those of the parts asked for, in the order in which they run."""
        setting, ceilings = self._setting, self._ceilings
        every = {
            "decode": lambda: measure_decode(*self._warm(), ceilings),
            "first_token": lambda: (
                measure_answer(*self._warm(), 1, ceilings) | {"preprocess": measure_frames(setting, self._device)}
            ),
            "answer": lambda: measure_answer(*self._warm(), setting.answer, ceilings),
            "parity": lambda: measure_parity(*self._warm()),
            "batch": self._batch,
            "memory": lambda: measure_memory(self._alone(), setting),
        }
        return {part: measure for part, measure in every.items() if part in setting.parts}

    def _batch(self) -> dict[str, Any]:
        self._warm()
        return measure_batch(self._alone(), self._setting, self._ceilings)

    def _built(self) -> torch.nn.Module:
        if self._model is None:
            self._model = build_llava(self._setting, self._device)
        return self._model

    def _warm(self) -> tuple[Subjects, Setting, Any]:
        """The versions, warmed up when a part first asks for them: a fresh machine is several times too slow."""
        setting, model = self._setting, self._built()
        request = make_request(model, setting, setting.frames)
        if self._subjects is None:
            self._subjects = Subjects(model, setting)
            lengths = dict.fromkeys((1, SETTLED, setting.answer, SETTLED + setting.answer))
            self._subjects.warm_up(request, tuple(lengths), setting.warm_up)
        return self._subjects, setting, request

    def _alone(self) -> torch.nn.Module:
        """The model without any version at work."""
        if self._subjects is not None:
            self._subjects.close()
            self._subjects = None
        return self._built()
