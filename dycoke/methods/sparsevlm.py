"""SparseVLM, its second form: visual tokens leave behind three layers, judged by the heads that look at them most."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from dycoke import budget
from dycoke.ops.tokens.survivors import strongest
from dycoke.registry import register
from dycoke.types import Plan, check_layers

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = (2, 6, 15)
KEEP = 1 / 3  # the share that the published budget of 192 is of 576
HEADS = 14


@dataclass(frozen=True)
class Stage:
    """Behind layer `layer - 1`, keep `share` of the `before` share of the visual tokens that is left."""

    layer: int
    share: float
    before: float

    option: ClassVar[str] = "layers"
    behind: ClassVar[int] = 1

    def join(self, attention: Tensor, visual: Tensor, rotary: Tensor) -> Tensor:
        """Mean of the 14 heads with most attention on visual tokens, each divided by what rotary embedding adds."""
        attention = attention / rotary[:, None, :]
        on_visual = torch.where(visual[:, None, :], attention, 0.0).sum(2)  # [B, H]
        best = on_visual.argsort(dim=1, descending=True, stable=True)[:, :HEADS]
        return attention.take_along_dim(best[:, :, None], 1).mean(1)

    def count(self, visual: int) -> int:
        return budget.stage_of(self.share, self.before, visual)

    def prune(self, hidden: Tensor, visual: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        return strongest(scores, visual, self.count)


@register(
    "sparsevlm",
    source="SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference, ICML 2025; "
    "second release (SparseVLM+)",
    paper="https://arxiv.org/abs/2410.04417",
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
        if self.budget and self.budget not in budget.SPARSEVLM_LISTS:
            named = ", ".join(map(str, budget.SPARSEVLM_LISTS))
            raise ValueError(f"budget={self.budget}: expected one of {named}, or 0 for keep")
        if self.budget and self.keep != KEEP:
            raise ValueError(f"budget={self.budget} with keep={self.keep}: expected one of the two")

    def plan(self) -> Plan:
        shares = budget.sparsevlm_published(self.budget) if self.budget else budget.sparsevlm_shares(self.keep)
        stages = zip(self.layers, shares, (1.0, *shares), strict=False)
        return Plan(inside=tuple(Stage(layer + 1, share, before) for layer, share, before in stages))
