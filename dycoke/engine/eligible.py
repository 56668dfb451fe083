"""Why a request is not decoded in the engine: every question, in the order in which they are asked.

1. When a method is put on a model, `at_attach`: is the engine wanted, and can it ever serve this model and plan?
   What it asks of the model alone, `of_model`, is asked again when weights or modules have been replaced.
2. When `generate` is called, `of_call`: has somebody put hooks on modules that a decode step passes by
   (`BypassedModules`), and do the arguments ask for another loop?
3. When transformers has prepared the call, `of_prompt`: is there memory for the answer, and is the mask a plain one?

Each answer is a reason in words, which the report repeats, or "" where nothing is in the way. Whether a fast forward
of the prefill serves a module is another question, which each of them answers for itself; see `prefill.forwards`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from dycoke.engine.hooks import hooked, scattered
from dycoke.turns import own_method
from dycoke.types import Plan

if TYPE_CHECKING:
    from dycoke.engine.buckets import Engine
    from dycoke.families.base import FamilyAdapter

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Frequencies of these are fixed when the model is made; others follow the length, which a graph could not.
_ROPE = ("default", "linear", "llama3", "yarn")
_LEAST_HEAD = 16

# Settings of `generate` that ask for another loop, and what they are where they do not.
_ONE_PATH = {
    "num_beams": 1,
    "use_cache": True,
    "return_dict_in_generate": False,
    "output_scores": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "prompt_lookup_num_tokens": None,
    "prefill_chunk_size": None,
    "cache_implementation": None,
    "penalty_alpha": None,
    "guidance_scale": None,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "stop_strings": None,
    "is_assistant": False,
}
_ARGUMENTS = ("assistant_model", "custom_generate", "synced_gpus", "negative_prompt_ids")


def at_attach(model: nn.Module, adapter: FamilyAdapter, plan: Plan, how: str, trace: bool) -> str:
    """Why the engine never serves this model with this plan; how: "auto", "on" or "off", as it was asked for."""
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
    return of_model(adapter.language_model(model), model.get_output_embeddings())


def of_model(language_model: nn.Module, head: nn.Module | None) -> str:
    """Why a decode step cannot be computed from this model's weights.

    language_model: the module whose layers fill a cache; head: what makes logits of its last hidden state.
    """
    from dycoke.engine.prefill import language as language_prefill  # transformers only where it is needed

    if not isinstance(language_model, language_prefill.MODELS):
        return f"{type(language_model).__name__} is not a Qwen2 or Llama language model"
    for part, kind in ((head, nn.Linear), (language_model.embed_tokens, nn.Embedding)):
        if type(part) is not kind:
            return f"a {type(part).__name__} where {kind.__name__} is served"
    rope = getattr(language_model.rotary_emb, "rope_type", "default")
    if rope not in _ROPE:
        return f"rotary embedding of type {rope!r}"
    weights = [language_model.layers, language_model.norm, language_model.embed_tokens, head]
    return language_prefill.never(language_model) or scattered(weights) or _of_kernels(language_model, head)


def _of_kernels(language_model: nn.Module, head: nn.Linear) -> str:
    weight, size = head.weight, language_model.layers[0].self_attn.head_dim
    if hasattr(weight, "ds_id"):
        return "its weights are sharded by ZeRO-3"
    if weight.dtype not in _DTYPES:
        return f"its weights are of {weight.dtype}"
    if weight.device.type not in ("cuda", "cpu"):
        return f"its weights are on {weight.device}"
    if weight.is_cuda and (size < _LEAST_HEAD or size & (size - 1)):
        return f"heads of {size}: the kernels take powers of two from {_LEAST_HEAD} on"
    return ""


class BypassedModules:
    """The modules whose calls a decode step of the engine passes by, and what a call of one would have done beside.

    ours: hooks, by `hooks.hooks_on`, that the plan itself has put on the model: they work in prefill alone.
    """

    def __init__(self, model: nn.Module, language_model: nn.Module, ours: frozenset[int]) -> None:
        self._all, self._ours = list(model.modules()), ours
        around = [part for part in self._all if any(inner is language_model for inner in part.modules())]
        self._bypassed = [*around, *language_model.layers.modules(), language_model.norm, language_model.rotary_emb]
        self._bypassed += [language_model.embed_tokens, model.get_output_embeddings()]

    def changed(self, model: nn.Module) -> bool:
        """Whether modules have come or gone, as adapters of weights do."""
        now = list(model.modules())
        return len(now) != len(self._all) or any(one is not other for one, other in zip(now, self._all, strict=True))

    def hook_reason(self) -> str:
        """What somebody else has put on one of the modules, "" if nothing."""
        if every_module._global_forward_hooks or every_module._global_forward_pre_hooks:
            return "hooks on every module"
        return hooked(self._bypassed, self._ours)


def of_call(model: nn.Module, asked: dict[str, Any], bypassed: BypassedModules, device: torch.device) -> str:
    """Why a call of `generate` with the arguments `asked`, by name, takes the stock loop. device: of the weights."""
    reason = bypassed.hook_reason()
    if not reason and torch.is_autocast_enabled(device.type):
        reason = "autocast is on"
    return reason or _another_loop(model, asked)


def _another_loop(model: nn.Module, asked: dict[str, Any]) -> str:
    """The argument, or setting of the model, that asks for another loop than sampling or greedy search."""
    from dycoke.engine.settings import setting
    from dycoke.stages.arguments import CACHE_NAMES

    for name in (*_ARGUMENTS, *CACHE_NAMES):
        if asked.get(name) is not None and asked[name] is not False:
            return name
    for name, usual in _ONE_PATH.items():
        value = setting(model, asked, name)
        if value is not None and value != usual:
            return f"{name}={value!r}"
    return ""


def of_prompt(engine: Engine, rows: int, room: int, mask: Tensor | None) -> str:
    """Why rows of a prompt cannot move in. room: new tokens of a row; mask: attention_mask of the prepared call."""
    if mask is not None and getattr(mask, "ndim", 0) != 2:
        return "attention_mask of the caller's own"
    if not engine.has_room(rows, room):
        return f"no memory for {room} new tokens"
    if mask is not None and not bool(mask[:, -1].all()):
        return "padding on the right"  # where transformers goes on behind the padding, and warns
    return ""
