"""Which language models the engine can run, and why another one keeps the stock loop."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2Model, Qwen2RMSNorm

_LAYERS = (Qwen2DecoderLayer, LlamaDecoderLayer)
_NORMS = (Qwen2RMSNorm, LlamaRMSNorm)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Frequencies of these are fixed when the model is made; others follow the length, which a graph could not.
_ROPE = ("default", "linear", "llama3", "yarn")
_LEAST_HEAD = 16


def refusal(language_model: nn.Module, head: nn.Module | None) -> str:
    """Why the engine cannot decode with this model, "" if it can.

    language_model: the module whose layers fill a cache; head: what makes logits of its last hidden state.
    """
    if not isinstance(language_model, Qwen2Model | LlamaModel):
        return f"{type(language_model).__name__} is no Qwen2 or Llama language model"
    if type(head) is not nn.Linear:
        return f"its head is {type(head).__name__}, not nn.Linear"
    if language_model.training:
        return "the model is in training mode"
    kinds = set(getattr(language_model.config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        return f"layers of type {', '.join(sorted(kinds))}"
    if language_model.config.hidden_act != "silu":
        return f"hidden_act={language_model.config.hidden_act!r}"
    rope = getattr(language_model.rotary_emb, "rope_type", "default")
    if rope not in _ROPE:
        return f"rotary embedding of type {rope!r}"
    return _parts_refusal(language_model, head)


def _parts_refusal(language_model: nn.Module, head: nn.Module) -> str:
    for layer in language_model.layers:
        if type(layer) not in _LAYERS:
            return f"a decoder layer is {type(layer).__name__}"
    for linear in (head, *_linears(language_model)):
        if type(linear) is not nn.Linear:
            return f"a layer's linear is {type(linear).__name__}, not nn.Linear"
    for norm in (language_model.norm, *(n for each in language_model.layers for n in _norms(each))):
        if type(norm) not in _NORMS:
            return f"a norm is {type(norm).__name__}"
    if type(language_model.embed_tokens) is not nn.Embedding:
        return f"its embedding is {type(language_model.embed_tokens).__name__}"
    parts = (language_model.embed_tokens, language_model.layers, language_model.norm)
    weights = [head.weight, *(weight for part in parts for weight in part.parameters())]
    if any(hasattr(weight, "ds_id") for weight in weights):
        return "its weights are sharded by ZeRO-3"
    dtypes, devices = {weight.dtype for weight in weights}, {weight.device for weight in weights}
    if len(dtypes) > 1 or not dtypes <= set(_DTYPES):
        return f"weights of {', '.join(sorted(map(str, dtypes)))}"
    if any(device.type not in ("cuda", "cpu") for device in devices):
        return f"weights on {', '.join(sorted(map(str, devices)))}"
    if len(devices) > 1:
        return f"weights on {len(devices)} devices"
    size = language_model.layers[0].self_attn.head_dim
    if devices.pop().type == "cuda" and (size < _LEAST_HEAD or size & (size - 1)):
        return f"heads of {size}: its kernel takes powers of two from {_LEAST_HEAD} on"
    return ""


def passed_by(language_model: nn.Module) -> list[nn.Module]:
    """The modules whose calls the engine's step skips: hooks on them would be passed by.

    Not the layers themselves: hooks of a plan that drops tokens inside the model sit there, and work in prefill alone.
    """
    inner = [part for layer in language_model.layers for part in layer.modules() if part is not layer]
    return [*inner, language_model.embed_tokens, language_model.norm, language_model.rotary_emb]


def _linears(language_model: nn.Module) -> Iterator[nn.Module]:
    for layer in language_model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        yield from (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        yield from (mlp.gate_proj, mlp.up_proj, mlp.down_proj)


def _norms(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    return layer.input_layernorm, layer.post_attention_layernorm
