"""Settings of `generate` that a model with a method cannot follow: refused by name before anything runs."""

from __future__ import annotations

import inspect
import weakref
from contextlib import ExitStack
from typing import Any

from torch import nn


def asked_of(stock: Any, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `generate`, by name."""
    return dict(zip(inspect.signature(stock).parameters, (model, *args), strict=False)) | kwargs


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


class CheckedGenerate:
    """Stands in for the `generate` of a model whose stock loop decodes. Holds the model weakly."""

    def __init__(self, model: nn.Module, pruned: bool) -> None:
        self._model, self._pruned, self._attached = weakref.ref(model), pruned, True

    def install(self, undo: ExitStack) -> None:
        self._model().generate = self
        undo.callback(_leave, weakref.ref(self))  # what undoes it must not keep the model

    def leave(self) -> None:
        """Give the model its own `generate` back, unless somebody has put another there meanwhile."""
        self._attached = False
        model = self._model()
        if model is not None and vars(model).get("generate") is self:
            del model.generate

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model's own `generate` takes and returns. Raises ValueError as `refuse_settings` does."""
        model = self._model()
        stock = type(model).generate
        if self._attached:
            refuse_settings(model, asked_of(stock, model, args, kwargs), pruned=self._pruned)
        return stock(model, *args, **kwargs)


def _leave(generate: weakref.ref) -> None:
    if generate() is not None:
        generate().leave()
