"""One decoded token through a language model's layers, over a cache that is read by index.

The arithmetic is that of transformers' Qwen2 and Llama layers, in the same dtypes and with the same roundings; what
differs is the order of sums inside a product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dycoke.engine.weights import Weights
from dycoke.kv_cache.request import DecodeRequest
from dycoke.ops.attend.sparse_decode import Scratch
from dycoke.ops.layer.rotary_write import rotary_write
from dycoke.ops.layer.skinny_linear import skinny_linear


def decode_step(
    weights: Weights, request: DecodeRequest, tokens: Tensor, positions: Tensor, scratch: Scratch
) -> Tensor:
    """Logits [B, V] behind the next token of every row; tensors only, so that a CUDA graph can record it.

    tokens, positions [B] int64: the ids to read, and where they stand in RoPE; positions end one further. The request
    grows by a column; on its side stream what it reads is chosen and counted. scratch: of these linears alone,
    kept from step to step.
    """
    request.tick()
    hidden = torch.nn.functional.embedding(tokens, weights.embedding)
    tables = _tables(weights, request, hidden, positions)
    for number, layer in enumerate(weights.layers):
        qkv = skinny_linear(hidden, layer.qkv, layer.qkv_bias, norm=layer.attention_norm, scratch=scratch)
        query = rotary_write(qkv, *tables[number], *request.tails[number], request.position(number))
        attended = request.attend(number, query.unsqueeze(2), layer.scale).flatten(1)
        skinny_linear(attended, (layer.out,), (layer.out_bias,), residual=hidden, out=hidden, scratch=scratch)
        inner = skinny_linear(
            hidden, layer.gate_up, layer.gate_up_bias, norm=layer.mlp_norm, gate=True, scratch=scratch
        )
        skinny_linear(inner, (layer.down,), (layer.down_bias,), residual=hidden, out=hidden, scratch=scratch)
    with request.side.work():
        if request.counted:
            request.end_step()
        positions.add_(1)
    logits = skinny_linear(hidden, (weights.head,), (weights.head_bias,), norm=weights.norm, scratch=scratch)
    request.side.join()
    return logits


def _tables(weights: Weights, request: DecodeRequest, hidden: Tensor, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Rotary tables (cos, sin) [B, D] of each layer: layers that hold the same columns share theirs."""
    made: dict[int, tuple[Tensor, Tensor]] = {}
    tables = []
    for number in range(len(weights.layers)):
        section = request.section(number)
        key = 0 if section.shift is None else id(section)
        if key not in made:
            made[key] = weights.tables(hidden, positions, section.shift)
        tables.append(made[key])
    return tables
