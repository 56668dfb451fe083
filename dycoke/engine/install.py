"""The `generate` of a model that has just got a method: in the engine where that serves, in its turn everywhere."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from torch import nn

from dycoke.engine.eligible import at_attach
from dycoke.engine.hooks import hooks_on
from dycoke.engine.settings import CheckedGenerate
from dycoke.report import Recorder
from dycoke.turns import Turns
from dycoke.types import Plan

if TYPE_CHECKING:
    from dycoke.families.base import FamilyAdapter


def install(
    model: nn.Module,
    adapter: FamilyAdapter,
    plan: Plan,
    recorder: Recorder,
    turns: Turns,
    undo: ExitStack,
    how: str,
    trace: bool,
    carried: frozenset[int],
) -> None:
    """Let `model.generate` take its turn, and decode in the engine, as `how` asks: "auto", "on" or "off".

    carried: hooks, by `hooks.hooks_on`, that were on the model before it got the method. Raises ValueError for "on"
    where the engine cannot serve the model or the plan, naming why.
    """
    reason, pruned = at_attach(model, adapter, plan, how, trace), plan.decode is not None or bool(plan.pruners)
    if not reason:
        try:
            stage = adapter.decode_stage(plan)
        except ValueError as error:
            reason = str(error)
    if not reason:
        from dycoke.engine.buckets import Engine  # transformers only where it is needed
        from dycoke.engine.generate import EngineGenerate

        head = model.get_output_embeddings()
        engine = Engine(adapter.language_model(model), head, plan.decode, pruned=bool(plan.pruners))
        ours = hooks_on(model) - carried
        EngineGenerate(model, adapter, stage, engine, recorder, turns, pruned, ours).install(undo)
        return
    if how == "on":
        raise ValueError(f"engine='on': {reason}; accepted: engine='auto' or 'off'")
    recorder.loop = f"stock: {reason}"
    if getattr(model, "generate", None) is not None:
        CheckedGenerate(model, turns, recorder, pruned).install(undo)
