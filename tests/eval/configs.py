"""The experiments of eval_configs, and what their runs cost by arithmetic."""

from __future__ import annotations

import json
import re
from pathlib import Path

from dycoke.eval.runs.experiment import load_experiment
from dycoke.eval.runs.specs import EMBEDDED, RunSpec
from dycoke.lab.cost import SHAPES, Tokens, planned
from dycoke.nano import MODEL_PATH
from dycoke.types import Plan

FILES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "eval_configs").glob("*.yaml"))}
PAPER = [name for name in FILES if re.fullmatch(r"table\d", name)]
NANO = [name for name in FILES if name.startswith("nano_")]
PER_FRAME = 196  # visual tokens of LLaVA-OneVision
_SHIPPED = json.loads((MODEL_PATH / "config.json").read_text())


def runs_of(name: str) -> tuple[RunSpec, ...]:
    return load_experiment(FILES[name]).runs


def size_of(run: RunSpec) -> str:
    return re.search(r"qwen2-(.*)-ov", run.model.name)[1]


def layers_of(run: RunSpec) -> int:
    return _SHIPPED["num_hidden_layers"] if run.model.pretrained == EMBEDDED else SHAPES[size_of(run)].layers


def per_frame_of(run: RunSpec) -> int:
    """Visual tokens of a frame, of which pooling leaves half of the patches in each direction."""
    if run.model.pretrained != EMBEDDED:
        return PER_FRAME
    vision = _SHIPPED["vision_config"]
    return (-(-(vision["image_size"] // vision["patch_size"]) // 2)) ** 2


def plan_of(run: RunSpec) -> Plan:
    built = run.method.build()
    return built if isinstance(built, Plan) else built.plan()


def tokens_of(run: RunSpec, frames: int | None = None) -> Tokens:
    """Visual tokens of a run, or of the same with another number of frames."""
    return planned(plan_of(run), frames or run.frames, per_frame_of(run), layers_of(run))
