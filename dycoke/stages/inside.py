"""The stage inside the language model, the same for every family: hooks on its decoder layers, and what they share.

The state of one prefill travels to the layers as a keyword of the language model, as a request does while decoding.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from dycoke.bases import Inside
from dycoke.bases.adopt import adopted
from dycoke.fitting import inside_faults, refuse
from dycoke.kv_cache.request import DecodeRequest
from dycoke.ops.attend.last_row import last_row, last_slot, rotary_row
from dycoke.report.usage import Entered
from dycoke.stages.attention import PREFILL, REQUEST
from dycoke.types import Prompt


class Prefill:
    """One prefill whose visual tokens leave on the way through the layers. Dies with it.

    prompt: what the pruners may know; rotary: the model's rotary tables; real [B, S] bool: no padding, None if nothing
    says so; request: whose cache the layers fill, None without a cache; flat: masks are 2-D, as flash attention has
    them. `entered` grows by an entry for each layer that drops some; trace: with the columns that go on.
    """

    def __init__(
        self,
        pruners: Sequence[Inside],
        rotary: nn.Module,
        prompt: Prompt,
        real: Tensor | None,
        request: DecodeRequest | None,
        flat: bool,
        trace: bool,
    ) -> None:
        started = [adopted("inside", own) for each in pruners for own in each.start(prompt)]
        self._pruners = {pruner.layer: pruner for pruner in started}
        self._rotary, self._request, self._flat, self._trace = rotary, request, flat, trace
        self._visual, self._newlines = prompt.visual, prompt.newlines
        self._real = torch.ones_like(prompt.visual) if real is None else real
        self._columns = torch.arange(prompt.visual.shape[1], device=prompt.visual.device).expand(prompt.visual.shape)
        self._attention: Tensor | None = None  # of the last row, [B, H, S], for the pruner that comes next
        self._positions: Tensor | None = None  # of the slots, once some are gone
        self._shift: Tensor | None = None
        self._told: dict[str, Any] = {}  # what a layer is told instead of what the model tells it
        self.entered: list[Entered] = []

    def observe(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Score the slots for a pruner on the next layer: query [B, Hq, S, D] and key [B, H, S, D] of `layer`."""
        pruner = self._pruners.get(layer + 1)
        if pruner is not None and pruner.observes == "previous":
            real = self._real.to(key.device)
            at = last_slot(real)[:, None, None, None].expand(-1, query.shape[1], 1, query.shape[3])
            self._attention = last_row(query.gather(2, at), key, scaling, real)

    def enter(
        self, layer: int, module: nn.Module, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Input [B, S', D] and keyword arguments of a layer, after its pruner, where it has one."""
        pruner = self._pruners.get(layer)
        if pruner is None:
            return hidden, kwargs | self._told
        visual, real = self._visual.to(hidden.device), self._real.to(hidden.device)
        told = kwargs | self._told
        tables = tuple(table.to(hidden.device).expand(len(hidden), -1, -1) for table in told["position_embeddings"])
        if pruner.observes == "own":
            self._attention = _own_attention(module, hidden, tables, real)
        competing = visual
        if pruner.newlines_compete and self._newlines is not None:
            competing = visual | self._newlines.to(hidden.device)
        chosen = pruner.prune(hidden, competing, self._scores(pruner, competing, real, tables))
        if chosen is None:
            return hidden, told
        index, mask = chosen
        mask = mask & real.gather(1, index)
        hidden = pruner.merge(hidden, competing, index, mask)
        self._visual, self._real = visual.gather(1, index) & mask, mask
        if self._newlines is not None:
            self._newlines = self._newlines.to(index.device).gather(1, index) & mask
        self._columns = self._columns.to(index.device).gather(1, index)
        self._move(pruner, kwargs["position_ids"], index, real)
        self._told = {
            "attention_mask": _narrowed(told["attention_mask"], index, mask, self._flat),
            # Flash attention would take gaps for the borders of packed samples.
            "position_ids": None,
            "position_embeddings": self._rotary(hidden, self._positions),
        }
        if self._request is not None:
            self._request.narrow(layer, index, mask, self._visual, self._shift, evict=pruner.evicts)
        columns = (self._columns, mask) if self._trace else ()
        self.entered.append(Entered(layer, self._visual.sum(1), *columns))
        return hidden, kwargs | self._told

    def _scores(self, pruner: Inside, visual: Tensor, real: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """What a pruner gets to see of the attention: [B, S] fp32, zeros where it observes nothing."""
        attention, self._attention = self._attention, None
        if attention is None:
            return torch.zeros(visual.shape, dtype=torch.float32, device=visual.device)
        return pruner.join(attention.to(visual.device), visual, rotary_row(*tables, last_slot(real)))

    def _move(self, pruner: Inside, given: Tensor, index: Tensor, real: Tensor) -> None:
        """Find the positions [B, S'] of the slots that go on, and by how much those of decoded tokens move back."""
        given = given if self._positions is None else self._positions
        given = given.to(index.device).expand(real.shape)
        self._positions = given.gather(1, index)
        if pruner.positions == "original":
            return
        first = given.gather(1, real.int().argmax(1, keepdim=True))
        packed = (first + self._real.cumsum(1) - 1).clamp(min=0)
        last = last_slot(self._real)[:, None]
        shift = self._positions.gather(1, last) - packed.gather(1, last)
        self._positions = packed
        self._shift = shift if self._shift is None else shift + self._shift.to(shift.device)


def _own_attention(layer: nn.Module, hidden: Tensor, tables: tuple[Tensor, Tensor], real: Tensor) -> Tensor:
    """Attention [B, H, S] of the last real row in a layer that has not run, of its own query and keys."""
    attention = layer.self_attn
    device = attention.k_proj.weight.device
    hidden, real = layer.input_layernorm(hidden.to(device)), real.to(device)
    cos, sin = (table.to(device) for table in tables)
    at = last_slot(real)[:, None, None]
    last, cos_last, sin_last = (part.gather(1, at.expand(-1, 1, part.shape[2])) for part in (hidden, cos, sin))

    def heads(projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], -1, attention.head_dim).transpose(1, 2)

    query, key = heads(attention.q_proj(last)), heads(attention.k_proj(hidden))
    query, _ = apply_rotary_pos_emb(query, query, cos_last, sin_last)
    key, _ = apply_rotary_pos_emb(key, key, cos, sin)
    return last_row(query, key, attention.scaling, real)


def _narrowed(told: Tensor | None, index: Tensor, real: Tensor, flat: bool) -> Tensor | None:
    """A mask for the slots index [B, S'] of which real [B, S'] are no padding, of the one for all slots.

    told: None (causal, no padding), 2-D [B, S], or 4-D [B, 1, S, S], bool or added to scores. Reads the device if None.
    """
    if told is None:
        if bool(real.all()):
            return None
        if flat:
            return real.long()
        told = torch.ones(real.shape[1], real.shape[1], dtype=torch.bool, device=real.device).tril()[None, None]
    elif told.ndim == 2:
        return told.to(index.device).gather(1, index) & real.to(told.dtype)
    else:
        told = told.to(index.device).expand(len(index), -1, -1, -1)
        told = told.gather(2, index[:, None, :, None].expand(-1, -1, -1, told.shape[3]))
        told = told.gather(3, index[:, None, None, :].expand(-1, -1, told.shape[2], -1))
    # A row of padding attends to itself: attention over nothing is not a number.
    itself = torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    seen = real[:, None, None, :] | itself
    if told.dtype == torch.bool:
        return (told | itself) & seen
    return told.masked_fill(itself, 0.0).masked_fill(~seen, torch.finfo(told.dtype).min)


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
        positions = kwargs["position_ids"]
        tables = section.shifted_tables(
            request.steps, lambda shift: self._model().rotary_emb(hidden, positions - shift.to(positions.device))
        )
        return kwargs | {"position_embeddings": tables}
