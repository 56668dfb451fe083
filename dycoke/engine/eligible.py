"""Which language models the engine can run, and why another one keeps the stock loop."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as every_module

from dycoke.engine.hooks import hooked, scattered
from dycoke.engine.prefill import language as language_prefill

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Frequencies of these are fixed when the model is made; others follow the length, which a graph could not.
_ROPE = ("default", "linear", "llama3", "yarn")
_LEAST_HEAD = 16


def refusal(language_model: nn.Module, head: nn.Module | None) -> str:
    """Why the engine cannot decode with this model, "" if it can.

    language_model: the module whose layers fill a cache; head: what makes logits of its last hidden state.
    """
    if not isinstance(language_model, language_prefill.MODELS):
        return f"{type(language_model).__name__} is no Qwen2 or Llama language model"
    for part, kind in ((head, nn.Linear), (language_model.embed_tokens, nn.Embedding)):
        if type(part) is not kind:
            return f"a {type(part).__name__} where {kind.__name__} is served"
    rope = getattr(language_model.rotary_emb, "rope_type", "default")
    if rope not in _ROPE:
        return f"rotary embedding of type {rope!r}"
    weights = [language_model.layers, language_model.norm, language_model.embed_tokens, head]
    return language_prefill.never(language_model) or scattered(weights) or _kernels_refusal(language_model, head)


def _kernels_refusal(language_model: nn.Module, head: nn.Linear) -> str:
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


class Calls:
    """The calls of modules that a decode step of the engine passes by, and what they would have done.

    ours: hooks, by `plain.hooks_on`, that the plan itself has put on the model: they work in prefill alone.
    """

    def __init__(self, model: nn.Module, language_model: nn.Module, ours: frozenset[int]) -> None:
        self._all, self._ours = list(model.modules()), ours
        around = [part for part in self._all if any(inner is language_model for inner in part.modules())]
        self._passed_by = [*around, *language_model.layers.modules(), language_model.norm, language_model.rotary_emb]
        self._passed_by += [language_model.embed_tokens, model.get_output_embeddings()]

    def replaced(self, model: nn.Module) -> bool:
        """Whether modules have come or gone, as adapters of weights do."""
        now = list(model.modules())
        return len(now) != len(self._all) or any(one is not other for one, other in zip(now, self._all, strict=True))

    def said(self) -> str:
        """What somebody else has put on one of the modules, "" if nothing."""
        if every_module._global_forward_hooks or every_module._global_forward_pre_hooks:
            return "hooks on every module"
        return hooked(self._passed_by, self._ours)
