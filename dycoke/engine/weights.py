"""The weights a decode step reads: as the model holds them, or with q, k and v joined into one for steps of many rows.

From 17 rows on, one product of cuBLAS with a whole weight is faster than the kernels with three. It takes a copy of
these weights, 0.9 GB of a 7B model, and so is only made where that is a small part of the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from dycoke.ops.layer.rotary_step import rotary_tables
from dycoke.ops.layer.skinny_linear import FEW_ROWS

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


SHARE = 0.02  # of a GPU's memory: the most that the copy takes


class JoinedWeights:
    """A model's weights with q, k and v of every layer side by side, in `weights`, which is filled by `refresh`."""

    def __init__(self, weights: Weights) -> None:
        self._of = weights
        self.weights = replace(weights, layers=tuple(_room(layer) for layer in weights.layers))

    @torch.inference_mode()
    def refresh(self) -> None:
        """Copy the weights as they are now: who changes them in place says so to nobody. Half a millisecond at 7B."""
        for of, to in zip(self._of.layers, self.weights.layers, strict=True):
            torch.cat(of.qkv, out=to.qkv[0])
            if to.qkv_bias[0] is not None:
                torch.cat(_biases(of), out=to.qkv_bias[0])


def worth_joining(weights: Weights, rows: int) -> bool:
    """Whether steps of so many rows gain by joined weights, and the GPU has room for them; on a CPU, for the tests."""
    if rows <= FEW_ROWS or weights.device.type != "cuda":
        return rows > FEW_ROWS
    nbytes = sum(each.nbytes for layer in weights.layers for each in layer.qkv)
    return nbytes <= SHARE * torch.cuda.get_device_properties(weights.device).total_memory


def _room(layer: LayerWeights) -> LayerWeights:
    """The layer with memory for joined weights, not yet filled."""
    first = layer.qkv[0]
    columns = sum(len(each) for each in layer.qkv)
    bias = None if all(each is None for each in layer.qkv_bias) else first.new_empty(columns)
    return replace(layer, qkv=(first.new_empty(columns, first.shape[1]),), qkv_bias=(bias,))


def _biases(layer: LayerWeights) -> list[Tensor]:
    """The layer's biases, zeros where a projection has none."""
    pairs = zip(layer.qkv, layer.qkv_bias, strict=True)
    return [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in pairs]
