"""Attention as registered with transformers: the model's own in prefill, an index view of the cache in a step.

A model whose cache is pruned runs under one of the names here instead of its own implementation's. A decode step
carries its request as a keyword of the language model, which transformers hands down to every attention function, and
a prefill what its layers share, which is shown queries and keys; without either a name behaves as the implementation
it stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

BASES = ("sdpa", "eager", "flash_attention_2")
REQUEST, PREFILL = "dycoke_request", "dycoke_prefill"


def pruned_name(base: str) -> str:
    """The registered name under which a model of attention implementation `base` decodes pruned."""
    return f"dycoke_{base}"


def _attention(base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """query [B, Hq, S, D] -> [B, S, Hq, D] and the attention of base "eager" in prefill."""
        request, prefill = kwargs.pop(REQUEST, None), kwargs.pop(PREFILL, None)
        if request is not None:
            return request.attend(module.layer_idx, query, kwargs["scaling"]), None
        if prefill is not None:
            prefill.observe(module.layer_idx, query, key, kwargs["scaling"])
        function = _eager if base == "eager" else ALL_ATTENTION_FUNCTIONS[base]
        return function(module, query, key, value, attention_mask, **kwargs)

    return attend


def _mask(base: str) -> Callable[..., Tensor | None]:
    def mask(*args: Any, **kwargs: Any) -> Tensor | None:
        if kwargs.get("q_length") == 1 and kwargs.get("attention_mask") is None:
            return None  # a step sees everything before it
        return ALL_MASK_ATTENTION_FUNCTIONS[base](*args, **kwargs)

    return mask


def _eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """transformers keeps its eager attention in each model's file, out of the registry; this is the same arithmetic."""
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


for _base in BASES:
    AttentionInterface.register(pruned_name(_base), _attention(_base))
    AttentionMaskInterface.register(pruned_name(_base), _mask(_base))
