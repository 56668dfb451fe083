"""The stage inside the language model, the same for every family: hooks on its decoder layers.

What the layers of a prefill share travels to them as a keyword of the language model, as a request does while decoding.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from dycoke.bases import Inside
from dycoke.fitting import inside_faults, refuse
from dycoke.kv_cache.request import DecodeRequest
from dycoke.report.usage import Entered
from dycoke.stages.attention import PREFILL, REQUEST
from dycoke.stages.inside import Prefill
from dycoke.types import Prompt


class InsideStage:
    """Serves layer pruners on a language model of transformers.

    flat: its attention takes 2-D masks. trace: note which columns go on. Raises ValueError for a pruner on a layer the
    model does not have.
    """

    def __init__(self, language_model: nn.Module, pruners: Sequence[Inside], flat: bool, trace: bool) -> None:
        self._model, self._pruners, self._flat, self._trace = weakref.ref(language_model), pruners, flat, trace
        self._layers = language_model.config.num_hidden_layers
        refuse(inside_faults(pruners, self._layers))

    def install(self, undo: ExitStack) -> None:
        """Hook every layer that may read less."""
        for number, layer in enumerate(self._model().layers):
            if number >= self._pruners[0].layer:
                undo.callback(layer.register_forward_pre_hook(self._entry(number), with_kwargs=True).remove)

    def prefill(
        self,
        kwargs: dict[str, Any],
        visual: Tensor,
        real: Tensor | None,
        places: tuple[Tensor, Tensor, int] | None,
        newlines: Tensor | None,
        request: DecodeRequest | None,
    ) -> tuple[dict[str, Any], list[Entered]]:
        """Arguments of a prefill, and a list that grows as its layers drop tokens.

        visual [B, S] bool; real [B, S] bool or None; places: video and slot [B, S] int64 of each visual token, and
        tokens a frame, where the family knows them; newlines [B, S] bool likewise; request: whose cache is filled.
        """
        if real is not None:
            visual, newlines = visual & real, None if newlines is None else newlines & real
        prompt = Prompt(visual, self._layers, *(places or (None, None, None)), newlines)
        prefill = Prefill(self._pruners, self._model().rotary_emb, prompt, real, request, self._flat, self._trace)
        return {**kwargs, PREFILL: prefill}, prefill.entered

    def _entry(self, number: int) -> Callable:
        def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            prefill, request = kwargs.get(PREFILL), kwargs.get(REQUEST)
            if prefill is not None:
                hidden, kwargs = prefill.enter(number, module, args[0], kwargs)
                return (hidden, *args[1:]), kwargs
            if request is not None:
                kwargs = self._moved_back(request, number, args[0], kwargs)
            return args, kwargs

        return enter

    def _moved_back(
        self, request: DecodeRequest, number: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Arguments of a layer in a decode step, its position where the layer's own tokens end."""
        section = request.section(number)
        if section.shift is None:
            return kwargs
        if section.rotated is None or section.rotated[0] != request.steps:
            positions = kwargs["position_ids"]
            tables = self._model().rotary_emb(hidden, positions - section.shift.to(positions.device))
            section.rotated = request.steps, tables
        return kwargs | {"position_embeddings": section.rotated[1]}
