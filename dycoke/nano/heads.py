"""Auxiliary heads: linear readings of the tower's patches and of the language model's visual tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dycoke.nano.targets import IGNORE, MEMORY, PATCH, SIGN, TALLY, Targets

_SIGN_SHARE, _MEMORY_SHARE = 0.5, 0.5


def _linear(width: int, classes: dict[str, int]) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(width, count) for name, count in classes.items()})


def _loss(heads: nn.ModuleDict, features: Tensor, wanted: dict[str, Tensor]) -> Tensor:
    """Summed cross entropies; features [..., C], wanted [...] for each head. 0 for one that has nothing to say."""
    total = features.new_zeros((), dtype=torch.float32)
    for name, head in heads.items():
        target = wanted[name].flatten()
        said = head(features).float().flatten(0, -2)
        count = (target != IGNORE).sum().clamp(min=1)
        total = total + F.cross_entropy(said, target, ignore_index=IGNORE, reduction="sum") / count
    return total


class DenseHeads(nn.Module):
    """Reads what `targets` says off every patch, frame and visual token; used in training only."""

    def __init__(self, tower_width: int, width: int):
        super().__init__()
        self.patch = _linear(tower_width, PATCH)
        self.sign = _linear(tower_width, SIGN)
        self.memory = _linear(width, MEMORY)
        self.tally = _linear(width, TALLY)

    def forward(self, features: Tensor, tokens: Tensor, grid: int, wanted: Targets) -> Tensor:
        """Losses of all heads, summed to a scalar.

        features [B * F, P * P, C] of the tower; tokens [B, F, grid^2, D], what the last layer makes of visual tokens.
        """
        patch = _loss(self.patch, features, wanted.patch)
        sign = _loss(self.sign, features.mean(1), wanted.sign)
        # a token owns what any of its patches shows
        owner = F.adaptive_max_pool2d(wanted.owner.float(), grid).long().flatten(2)
        memory = _loss(self.memory, tokens, {name: _at(value, owner) for name, value in wanted.memory.items()})
        # the last token of a frame has seen all of it
        tally = _loss(self.tally, tokens[:, :, -1], wanted.tally)
        return patch + _SIGN_SHARE * sign + _MEMORY_SHARE * (memory + tally)


def _at(values: Tensor, owner: Tensor) -> Tensor:
    """Values of objects [B, F, K] at the tokens that show them, [B, F, N]; IGNORE at those that show none."""
    return torch.cat([torch.full_like(values[..., :1], IGNORE), values], -1).gather(-1, owner)
