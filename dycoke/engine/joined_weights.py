"""The projections to queries, keys and values as one weight, for steps of many rows.

From 17 rows on, one product of cuBLAS with a whole weight is faster than the kernels with three. It takes a copy of
these weights, 0.9 GB of a 7B model, and so is only made where that is a small part of the GPU.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dycoke.engine.weights import LayerWeights, Weights
from dycoke.ops.layer.skinny_linear import FEW_ROWS

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
