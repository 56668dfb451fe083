"""The `generate` of a model that has just got a method: in the engine where that serves, in its turn everywhere."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from torch import nn

from dycoke.engine.hooks import hooks_on
from dycoke.engine.settings import CheckedGenerate
from dycoke.report import Recorder
from dycoke.turns import Turns, own_method
from dycoke.types import Plan

if TYPE_CHECKING:
    from dycoke.families.base import Adapter


def put_on(
    model: nn.Module,
    adapter: Adapter,
    plan: Plan,
    recorder: Recorder,
    turns: Turns,
    undo: ExitStack,
    how: str,
    trace: bool,
    carried: frozenset[int],
) -> None:
    """Let `model.generate` take its turn, and decode in the engine, as `how` asks: "auto", "on" or "off".

    carried: hooks, by `plain.hooks_on`, that were on the model before it got the method. Raises ValueError for "on"
    where the engine cannot serve the model or the plan, naming why.
    """
    reason, pruned = _reason(model, adapter, plan, how, trace), plan.decode is not None or bool(plan.pruners)
    if not reason:
        from dycoke.engine.buckets import Engine  # transformers only where it is needed
        from dycoke.engine.generate import EngineGenerate

        language_model = adapter.language_model(model)
        engine = Engine(language_model, model.get_output_embeddings(), plan.decode, pruned=bool(plan.pruners))
        try:
            adapter.serve(engine, plan)
        except ValueError as error:
            reason = str(error)
        else:
            ours = hooks_on(model) - carried
            EngineGenerate(model, language_model, engine, recorder, turns, pruned, ours).install(undo)
            return
    if how == "on":
        raise ValueError(f"engine='on': {reason}; accepted: engine='auto' or 'off'")
    recorder.loop = f"stock: {reason}"
    if getattr(model, "generate", None) is not None:
        CheckedGenerate(model, turns, recorder, pruned).install(undo)


def _reason(model: nn.Module, adapter: Adapter, plan: Plan, how: str, trace: bool) -> str:
    """Why the engine is not used, "" where it is."""
    if how == "off":
        return "engine='off'"
    if getattr(model, "generate", None) is None:
        return f"{type(model).__name__} has no generate"
    if own_method(model, "generate") is not None:
        return "the model has a generate of its own"
    if how == "auto" and not any(weight.is_cuda for weight in model.parameters()):
        return "the model is on the CPU"
    if trace:
        return "trace=True"
    if plan.decode is not None and plan.decode.dp_cache == "host":
        return "dp_cache='host'"
    from dycoke.engine.eligible import refusal

    return refusal(adapter.language_model(model), model.get_output_embeddings())
