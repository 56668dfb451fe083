"""FastV: after a layer, drop the visual tokens the prompt's last token attends to least."""

from __future__ import annotations

from dataclasses import dataclass, field

from dycoke import budget
from dycoke.bases import KeepMost
from dycoke.registry import register
from dycoke.types import check_layer


@register(
    "fastv",
    source="An Image is Worth 1/2 Tokens After Layer 2, ECCV 2024",
    paper="https://arxiv.org/abs/2403.06764",
    code="https://github.com/pkunlp-icler/FastV/tree/d165972",
    retention="1 in layers below k, 1 - r from k on",
    official="k=2, r=0.5 (paper); the LLaVA demo k=3, r=0.75; DyCoke compares with k=5, r=0.65",
    deviations=(
        "Every row of a batch is scored, because the published code reads row 0 alone; all videos and pictures of a "
        "prompt share one budget, because it knows one image span.",
        "Newlines between visual tokens are text and stay, because they are no picture's content.",
        "The last row's attention is computed by hand, because asking the model for it costs the fast attention.",
    ),
)
@dataclass(frozen=True)
class FastV(KeepMost):
    """On entry to layer k, keep the round(n * (1 - r)) visual tokens that got most of the last token's attention.

    Scores are those of layer k - 1 (the first layer is 0), averaged over heads. Tokens keep their order and positions.
    """

    k: int = field(default=2, metadata={"help": "K, first layer with fewer visual tokens, from 1 to the last layer"})
    r: float = field(default=0.5, metadata={"help": "R, share of the visual tokens dropped there, in [0, 1]"})

    option = "k"

    def __post_init__(self) -> None:
        check_layer(self.option, self.k)
        budget.check_ratio("r", self.r)

    @property
    def layer(self) -> int:
        return self.k

    def count(self, visual: int) -> int:
        return budget.share_round(1 - self.r, visual)
