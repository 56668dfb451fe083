"""PyramidDrop: at each of a few layers, half of the visual tokens leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from dycoke import budget
from dycoke.bases import KeepMost
from dycoke.ops.tokens.survivors import strongest
from dycoke.registry import register
from dycoke.types import LayerPruner, Plan, Prompt, check_layers

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Stage(KeepMost):
    """On entry to `layer`, keep int(n * share) visual tokens by the attention the layer itself would give them.

    n are the visual tokens that entered the first layer, entered [B] of them in a request's rows.
    """

    layer: int
    share: float
    entered: Tensor | None = field(default=None, repr=False, compare=False)

    option = "layers"
    observes = "own"
    positions = "packed"
    counts = "entered"

    def count(self, visual: int) -> int:
        return budget.share_floor(self.share, visual, least=1)

    def start(self, prompt: Prompt) -> Sequence[LayerPruner]:
        return [replace(self, entered=prompt.visual.sum(1))]

    def prune(self, hidden: Tensor, visual: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        if self.entered is None:
            raise TypeError("PyramidDrop counts the tokens that entered the model: call start(prompt) for a request")
        return strongest(scores, visual, self.count, self.entered)


@register(
    "pdrop",
    source="PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction, "
    "CVPR 2025",
    paper="https://arxiv.org/abs/2410.17247",
    code="https://github.com/Cooperx521/PyramidDrop/tree/3f89f94",
    retention="int(n * keep^i) / n of n from the i-th of the layers on; mean over layers .52 at the defaults and 28 "
    "layers",
    official="layers 8, 16, 24; half of the tokens at each",
    deviations=(
        "All videos and pictures of a prompt share one budget, because the published code knows one image span; "
        "newlines between visual tokens are text and stay.",
        "At least one visual token stays, because a share of few would leave none.",
    ),
)
@dataclass(frozen=True)
class PDrop:
    """At each of `layers`, keep the share `keep` of the visual tokens that are left, by the last token's attention.

    Behind the i-th of them int(n * keep^i) of the n visual tokens that entered the model are left, as the released
    code counts from its list of shares. Scores are those of the layer that is entered, from its own query and keys,
    averaged over heads. What goes on is renumbered without gaps, and decoded tokens count on from there in the layers
    behind. Source: Cooperx521/PyramidDrop@3f89f94, llava/model/modeling_llama_pdrop.py.
    """

    layers: tuple[int, ...] = field(default=(8, 16, 24), metadata={"help": "layers at which tokens leave, ascending"})
    keep: float = field(default=0.5, metadata={"help": "share of the visual tokens kept at each, in (0, 1]"})

    def __post_init__(self) -> None:
        check_layers("layers", self.layers)
        budget.check_ratio("keep", self.keep, above_zero=True)

    def plan(self) -> Plan:
        shares = (decimal_power(self.keep, stage) for stage in range(1, len(self.layers) + 1))
        return Plan(inside=tuple(map(Stage, self.layers, shares)))


def decimal_power(share: float, power: int) -> float:
    """share to a power as one writes it in a list: the double nearest to the power of its decimal digits.

    .7 squared gives .49, of which 100 tokens keep 49; .7 * .7 in double is less, and would lose one.
    """
    return float(Fraction(str(float(share))) ** power)
