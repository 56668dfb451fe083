"""Settings of `generate` that a model with a method cannot follow: refused by name before anything runs."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from dycoke.report import Recorder
from dycoke.turns import QueuedGenerate, Turns


def setting(model: nn.Module, asked: dict[str, Any], name: str) -> Any:
    """A setting of a call: the argument, or what its generation config or the model's says; None where nobody does."""
    configs = (asked.get("generation_config"), getattr(model, "generation_config", None))
    values = (asked.get(name), *(getattr(config, name, None) for config in configs if config is not None))
    return next((value for value in values if value is not None), None)


def refuse_settings(model: nn.Module, asked: dict[str, Any], *, pruned: bool) -> None:
    """Raise ValueError for what would be answered wrongly, or half-way refused. pruned: the plan prunes the cache."""
    chunk = setting(model, asked, "prefill_chunk_size")
    if chunk is not None:
        raise ValueError(
            f"prefill_chunk_size={chunk!r}: a method reads a prompt, and every video in it, in one piece; leave it out"
        )
    if not pruned:
        return
    scale = setting(model, asked, "guidance_scale")
    if scale is not None and scale != 1:
        raise ValueError(
            f"guidance_scale={scale!r}: reads two prompts in turns, which a method that prunes the KV cache cannot "
            "follow; accepted: None or 1, or a method that drops tokens before the language model alone"
        )
    if asked.get("assistant_model") is model:
        raise ValueError(
            "assistant_model= is the model itself: guesses are taken back, which a method that prunes the KV cache "
            "cannot follow; accepted: None, or a method that drops tokens before the language model alone"
        )


class CheckedGenerate(QueuedGenerate):
    """One `generate` of a model whose stock loop decodes, when it is its turn, if its settings can be followed.

    pruned: the plan prunes the KV cache.
    """

    def __init__(self, model: nn.Module, turns: Turns, recorder: Recorder, pruned: bool) -> None:
        super().__init__(model, turns, recorder)
        self._pruned = pruned

    def answer(self, inside: bool, args: tuple, kwargs: dict[str, Any]) -> Any:
        self.checked(inside, args, kwargs)
        return self.usual()(*args, **kwargs)

    def checked(self, inside: bool, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call, by name. Raises ValueError as `refuse_settings` does, of an outermost call."""
        asked = dict(zip(inspect.signature(self.usual()).parameters, args, strict=False)) | kwargs
        if not inside:
            refuse_settings(self._model(), asked, pruned=self._pruned)
        return asked
