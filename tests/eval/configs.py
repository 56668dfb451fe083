"""The experiments of eval_configs, and what their runs cost by arithmetic."""

from __future__ import annotations

import re
from pathlib import Path

from dycoke.eval.cost import SHAPES, Tokens, planned
from dycoke.eval.experiment import load_experiment
from dycoke.eval.specs import RunSpec
from dycoke.types import Plan

FILES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "eval_configs").glob("*.yaml"))}
PAPER = [name for name in FILES if re.fullmatch(r"table\d", name)]
PER_FRAME = 196  # visual tokens of LLaVA-OneVision


def runs_of(name: str) -> tuple[RunSpec, ...]:
    return load_experiment(FILES[name]).runs


def size_of(run: RunSpec) -> str:
    return re.search(r"qwen2-(.*)-ov", run.model.name)[1]


def plan_of(run: RunSpec) -> Plan:
    built = run.method.build()
    return built if isinstance(built, Plan) else built.plan()


def tokens_of(run: RunSpec, frames: int | None = None) -> Tokens:
    """Visual tokens of a run, or of the same with another number of frames."""
    return planned(plan_of(run), frames or run.frames, PER_FRAME, SHAPES[size_of(run)].layers)
