"""The weights a decode step reads, as the model holds them; `joined` has copies of some."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from dycoke.ops.layer.rotary_tables import rotary_tables

_ROTARY = (Qwen2RotaryEmbedding, LlamaRotaryEmbedding)  # what these compute is known; a subclass is called
Pair = tuple[Tensor, float]  # a norm's weight and epsilon


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer. Linears are tuples of weights [N, K] whose outputs stand side by side, and their biases."""

    attention_norm: Pair
    qkv: tuple[Tensor, ...]
    qkv_bias: tuple[Tensor | None, ...]
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Pair
    gate_up: tuple[Tensor, Tensor]
    gate_up_bias: tuple[Tensor | None, Tensor | None]
    down: Tensor
    down_bias: Tensor | None
    scale: float


@dataclass(frozen=True, slots=True)
class Weights:
    """A language model's layers, embedding [V, D], last norm, head [V, D], and its module of rotary tables."""

    layers: tuple[LayerWeights, ...]
    embedding: Tensor
    norm: Pair
    head: Tensor
    head_bias: Tensor | None
    rotary: nn.Module
    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, language_model: nn.Module, head: nn.Linear) -> Weights:
        """Of a model that `eligible.of_model` has nothing against."""
        config, first = language_model.config, language_model.layers[0].self_attn
        return cls(
            layers=tuple(_layer(layer) for layer in language_model.layers),
            embedding=language_model.embed_tokens.weight,
            norm=_norm(language_model.norm),
            head=head.weight,
            head_bias=head.bias,
            rotary=language_model.rotary_emb,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=first.head_dim,
        )

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    def tables(self, hidden: Tensor, positions: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rotary tables cos, sin [B, D] of positions [B], less shift [B, 1], in the dtype of hidden."""
        if type(self.rotary) in _ROTARY and self.rotary.inv_freq.device == positions.device:
            frequencies, scaling = self.rotary.inv_freq, self.rotary.attention_scaling
            return rotary_tables(positions, frequencies, scaling, hidden.dtype, shift)
        cos, sin = self.rotary(hidden, positions[:, None] if shift is None else positions[:, None] - shift)
        return cos.flatten(0, 1), sin.flatten(0, 1)

    def captured(self) -> tuple[float, ...]:
        """What a graph takes over when it is recorded: where all weights lie, and the numbers among them."""
        found: list[float] = [self.embedding.data_ptr(), self.head.data_ptr(), self.norm[0].data_ptr(), self.norm[1]]
        found += [each.data_ptr() for each in (self.head_bias, *self.rotary.buffers()) if each is not None]
        found += [id(self.rotary), self.rotary.attention_scaling]
        for layer in self.layers:
            found += [layer.attention_norm[1], layer.mlp_norm[1], layer.scale]
            parts = (*layer.qkv, layer.out, *layer.gate_up, layer.down, layer.attention_norm[0], layer.mlp_norm[0])
            biases = (*layer.qkv_bias, layer.out_bias, *layer.gate_up_bias, layer.down_bias)
            found += [part.data_ptr() for part in (*parts, *biases) if part is not None]
        return tuple(found)


def _layer(layer: nn.Module) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    qkv, gate_up = (attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)
    return LayerWeights(
        attention_norm=_norm(layer.input_layernorm),
        qkv=tuple(each.weight for each in qkv),
        qkv_bias=tuple(each.bias for each in qkv),
        out=attention.o_proj.weight,
        out_bias=attention.o_proj.bias,
        mlp_norm=_norm(layer.post_attention_layernorm),
        gate_up=tuple(each.weight for each in gate_up),
        gate_up_bias=tuple(each.bias for each in gate_up),
        down=mlp.down_proj.weight,
        down_bias=mlp.down_proj.bias,
        scale=attention.scaling,
    )


def _norm(norm: nn.Module) -> Pair:
    return norm.weight, norm.variance_epsilon
