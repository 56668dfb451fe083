"""SparseVLM, its second form: visual tokens leave behind three layers, judged by the heads that look at them most."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dycoke import budget
from dycoke.bases import KeepMost
from dycoke.registry import register
from dycoke.types import Plan, check_layers

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = (2, 6, 15)
KEEP = 1 / 3  # the share that the published budget of 192 is of 576
HEADS = 14
# Tokens of 576 behind SparseVLM's three layers, by the budget each list is named for. Source: its second release,
# Gumpest/SparseVLMs, llava/model/language_model/score.py with USE_VERSION=2_0.
LISTS = {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)}


@dataclass(frozen=True)
class Stage(KeepMost):
    """Behind layer `layer - 1`, keep `share` of the `before` share of the visual tokens that is left."""

    layer: int
    share: float
    before: float

    option = "layers"
    behind = 1

    def join(self, attention: Tensor, visual: Tensor, rotary: Tensor) -> Tensor:
        """Mean of the 14 heads with most attention on visual tokens, each divided by what rotary embedding adds."""
        attention = attention / rotary[:, None, :]
        on_visual = torch.where(visual[:, None, :], attention, 0.0).sum(2)  # [B, H]
        best = on_visual.argsort(dim=1, descending=True, stable=True)[:, :HEADS]
        return attention.take_along_dim(best[:, :, None], 1).mean(1)

    def count(self, visual: int) -> int:
        """Of the `visual` tokens left of a share `before`, so many that the share `share` is left; one at least."""
        return left_of(self.share, self.before, visual)


@register(
    "sparsevlm",
    source="SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference, ICML 2025; "
    "second release (SparseVLM+)",
    paper="https://arxiv.org/abs/2410.04417",
    code="https://github.com/Gumpest/SparseVLMs",
    retention="keep^.59, keep^.96, keep^1.44 behind the three layers; at keep = 1/3 300, 200 and 118 of 576; with a "
    "budget its published list",
    official="behind layers 2, 6, 15; of 576 tokens 300, 200, 118 (budget 192), 238, 108, 60 (128), 246, 54, 28 (96) "
    "or 66, 34, 20 (64); 14 heads",
    deviations=(
        "The last row scores alone, where the published code averages the text tokens with most relevance, because "
        "their rows would need the attention matrix that fast kernels never make.",
        "keep as a share, raised to the powers that give the published list for 192 of 576 tokens at 1/3, because "
        "lists are published for four budgets only; budget=192, 128, 96 or 64 takes the list of that name, as shares "
        "of the visual tokens there are.",
        "Where all may stay none leaves; the released code always drops one token at least.",
        "A model of 14 heads or fewer averages all of them, because 14 is published for models of 32.",
        "All videos and pictures of a prompt share one budget, because the published code knows one image span; "
        "newlines between visual tokens are text and stay.",
    ),
)
@dataclass(frozen=True)
class SparseVLM:
    """Behind each of `layers`, keep the visual tokens that the heads which look at them most attend to.

    Attention of the last token is divided by what rotary embedding alone would score at each place, then the 14 heads
    with most of it on visual tokens are averaged. Nothing is recycled, and tokens keep their positions.
    """

    keep: float = field(default=KEEP, metadata={"help": "budget the published lists are named for, in (0, 1]"})
    layers: tuple[int, ...] = field(default=LAYERS, metadata={"help": "three layers behind which tokens leave"})
    budget: int = field(
        default=0, metadata={"help": "192, 128, 96 or 64: the published list of 576, in place of keep; 0: keep"}
    )

    def __post_init__(self) -> None:
        check_layers("layers", self.layers)
        if len(self.layers) != len(LAYERS):
            raise ValueError(f"layers={self.layers!r}: expected three layers, as {LAYERS}")
        budget.check_ratio("keep", self.keep, above_zero=True)
        budget.check_count("budget", self.budget, least=0)
        if self.budget and self.budget not in LISTS:
            named = ", ".join(map(str, LISTS))
            raise ValueError(f"budget={self.budget}: expected one of {named}, or 0 for keep")
        if self.budget and self.keep != KEEP:
            raise ValueError(f"budget={self.budget} with keep={self.keep}: expected one of the two")

    def plan(self) -> Plan:
        shares = published_shares(self.budget) if self.budget else shares_of(self.keep)
        stages = zip(self.layers, shares, (1.0, *shares), strict=False)
        return Plan(inside=tuple(Stage(layer + 1, share, before) for layer, share, before in stages))


def left_of(share: float, before: float, visual: int) -> int:
    """Visual tokens that go on of the `visual` left of a share `before`, so that the share `share` is left."""
    return min(visual, max(1, round(visual * share / before)))


def shares_of(keep: float) -> tuple[float, ...]:
    """Shares of the visual tokens left behind SparseVLM's three layers.

    At keep = 1/3 the published 300, 200 and 118 of 576; powers of `keep`, so that 1 keeps everything and less never
    leaves more.
    """
    budget.check_ratio("keep", keep, above_zero=True)
    return tuple(keep ** math.log(count / 576, 1 / 3) for count in LISTS[192])


def published_shares(budget: int) -> tuple[float, ...]:
    """Shares of the visual tokens that the published list of a budget, 192, 128, 96 or 64 of 576, leaves."""
    return tuple(count / 576 for count in LISTS[budget])
