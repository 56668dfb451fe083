"""Prefill of a Qwen2 or Llama language model of transformers, with what surrounds its matrix products fused.

The products are cuBLAS's, on the model's own weights. A layer is eager otherwise: two norms of several kernels each,
rotary tables applied in ten, two residual adds and a gated activation, all of them bound by memory. Here a norm takes
the residual add before it along, rotary turns queries and keys where the projections wrote them, and the activation is
one pass; roundings are those of the modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.nn.functional import linear
from transformers.activations import ACT2FN
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama import modeling_llama as llama
from transformers.models.qwen2 import modeling_qwen2 as qwen2

from dycoke.engine.hooks import hooked, scattered, unlike
from dycoke.engine.prefill.rows import BACKENDS, Rows, by_tokens, preferring, rows_of
from dycoke.ops.layer.fused import add_rms_norm, rms_norm, silu_mul
from dycoke.ops.layer.rotary import rotate
from dycoke.stages.arguments import CACHE_NAMES, renamed

MODELS = (qwen2.Qwen2Model, llama.LlamaModel)
_SILU = tuple(dict.fromkeys((nn.SiLU, type(ACT2FN["silu"]))))
_KINDS = {
    qwen2.Qwen2DecoderLayer: (qwen2.Qwen2Attention, qwen2.Qwen2MLP, qwen2.Qwen2RMSNorm),
    llama.LlamaDecoderLayer: (llama.LlamaAttention, llama.LlamaMLP, llama.LlamaRMSNorm),
}
_READ = frozenset({"input_ids", "inputs_embeds", "attention_mask", "position_ids", "past_key_values", "use_cache"})
# What callers may say without changing what a prefill computes. LLaVA-OneVision hands down what its head reads.
_SAID = {"return_dict": (True,), "output_attentions": (False,), "output_hidden_states": (False,)}
_IGNORED = frozenset({"logits_to_keep"})
_OUTPUT_CACHE = next(each.name for each in fields(BaseModelOutputWithPast) if each.name in CACHE_NAMES)


class LanguagePrefill:
    """The prefill of one language model, the module whose layers fill a cache; holds what it checked once."""

    def __init__(self, model: nn.Module, backends: Sequence[SDPBackend] = BACKENDS) -> None:
        self._model, self._backends = model, backends
        self._modules = [*model.layers.modules(), *model.norm.modules()]
        self._unserved = never(model)

    def unserved(self) -> str:
        """Reason why the model runs its stock forward now, "" if prefill is sped up."""
        return self._unserved or hooked(self._modules)

    def serves(self, kwargs: dict[str, Any]) -> bool:
        """Whether a call with these arguments, by name, is a prefill that `run` computes."""
        kwargs = renamed(kwargs, "past_key_values")
        known = all(
            value is None or key in _READ | _IGNORED or any(value is each for each in _SAID.get(key, ()))
            for key, value in kwargs.items()
        )
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        if not known or torch.is_grad_enabled() or (ids is None) == (embeds is None):
            return False
        tokens = ids if embeds is None else embeds
        shape, mask, positions = tokens.shape[:2], kwargs.get("attention_mask"), kwargs.get("position_ids")
        cache = kwargs.get("past_key_values")
        weight = self._model.norm.weight
        read = self._model.embed_tokens.weight if embeds is None else embeds
        if read.dtype != weight.dtype or read.device != weight.device or torch.is_autocast_enabled(read.device.type):
            return False
        if mask is not None and not (isinstance(mask, Tensor) and mask.shape == shape):
            return False
        if positions is not None and (positions.ndim != 2 or positions.shape[1] != shape[1]):
            return False
        if positions is not None and mask is None and cache is None:
            return False  # transformers looks for borders of packed samples in such positions
        return shape[1] > 0 and (cache is None or _is_fresh(cache)) and not self.unserved()

    @torch.no_grad()
    def run(self, kwargs: dict[str, Any]) -> BaseModelOutputWithPast:
        """Output of the stock forward for arguments that `serves` accepts: hidden states [B, S, D] and the cache.

        Padding, where the 2-D mask has any, has zeros as its hidden state and in the cache.
        """
        model, kwargs = self._model, renamed(kwargs, "past_key_values")
        hidden = kwargs.get("inputs_embeds")
        hidden = model.embed_tokens(kwargs["input_ids"]) if hidden is None else hidden
        length = hidden.shape[1]
        use_cache, cache = kwargs.get("use_cache"), kwargs.get("past_key_values")
        use_cache = model.config.use_cache if use_cache is None else use_cache
        if use_cache and cache is None:
            cache = DynamicCache(config=model.config)
        rows = rows_of(kwargs.get("attention_mask"), length, hidden.device)
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(length, device=hidden.device)[None]
        packed = rows.pack(hidden)
        tables = model.rotary_emb(packed, rows.pack(positions))
        with preferring(self._backends):
            hidden = rows.unpack(_layers(model, packed, tables, rows, cache))
        kept = cache if use_cache or isinstance(model, llama.LlamaModel) else None
        return BaseModelOutputWithPast(last_hidden_state=hidden, **{_OUTPUT_CACHE: kept})


def _layers(model: nn.Module, hidden: Tensor, tables: tuple[Tensor, Tensor], rows: Rows, cache: Any) -> Tensor:
    """All layers and the final norm: packed embeddings [R, L, D] -> [R, L, D]."""
    shape = hidden.shape[:2]
    residual, delta = hidden, None  # what a layer adds is added where the next norm reads it
    for layer in model.layers[: model.config.num_hidden_layers]:
        attention, mlp, norm = layer.self_attn, layer.mlp, layer.input_layernorm
        if delta is None:
            normed = rms_norm(residual, norm.weight, norm.variance_epsilon)
        else:
            normed, residual = add_rms_norm(delta, residual, norm.weight, norm.variance_epsilon)
        query, key, value = (
            linear(normed, each.weight, each.bias).view(*shape, -1, attention.head_dim)
            for each in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        rotate(query, key, *tables)
        if cache is not None:
            stored = (rows.unpack(each).transpose(1, 2) for each in (key, value))
            cache.update(*stored, attention.layer_idx)
        mixed = rows.attend(query, key, value, attention.scaling).view(*shape, -1)
        delta = linear(mixed, attention.o_proj.weight, attention.o_proj.bias)
        norm = layer.post_attention_layernorm
        normed, residual = add_rms_norm(delta, residual, norm.weight, norm.variance_epsilon)
        delta = by_tokens(lambda part, mlp=mlp: _mlp(mlp, part), normed)
    return add_rms_norm(delta, residual, model.norm.weight, model.norm.variance_epsilon)[0]


def _mlp(mlp: nn.Module, normed: Tensor) -> Tensor:
    gate, up = (linear(normed, each.weight, each.bias) for each in (mlp.gate_proj, mlp.up_proj))
    return linear(silu_mul(gate, up), mlp.down_proj.weight, mlp.down_proj.bias)


def _is_fresh(cache: Any) -> bool:
    """Whether a cache holds nothing, as far as the host knows: a static one's length would be asked on the device."""
    layers = getattr(cache, "layers", None)
    return layers is not None and not any(getattr(layer, "is_initialized", True) for layer in layers)


def never(model: nn.Module) -> str:
    """Reason why a model can never be served, "" if it can."""
    config = model.config
    if model.training:
        return "it is in training mode"
    if not model.layers or set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "it has no layers, or some that attend in a sliding window"
    if config.output_attentions or config.output_hidden_states:
        return "its config asks for attentions or hidden states"
    norms = (qwen2.Qwen2RMSNorm, llama.LlamaRMSNorm)
    return (
        unlike((layer, tuple(_KINDS)) for layer in model.layers)
        or unlike(part for layer in model.layers for part in _parts(layer))
        or unlike([(model.norm, norms)])
        or scattered([model.layers, model.norm])
    )


def _parts(layer: nn.Module) -> list[tuple[nn.Module, tuple[type, ...]]]:
    """The modules a layer is run from, each with what it has to be."""
    attention, mlp, norm = _KINDS[type(layer)]
    if type(layer.self_attn) is not attention or type(layer.mlp) is not mlp:
        return [(layer.self_attn, (attention,)), (layer.mlp, (mlp,))]
    own, gated = layer.self_attn, layer.mlp
    products = (own.q_proj, own.k_proj, own.v_proj, own.o_proj, gated.gate_proj, gated.up_proj, gated.down_proj)
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    return [*((each, (nn.Linear,)) for each in products), *((each, (norm,)) for each in norms), (gated.act_fn, _SILU)]
