"""DyCoke's dynamic pruning of the KV cache: each decoded token reads the visual tokens it attends to.

Two methods are made of it, `dycoke` and `dynamic_pruning`, so that either can go without the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from dycoke.bases.stage import Decode
from dycoke.bases.state import State
from dycoke.budget import PAPER_L, PAPER_P, check_ratio
from dycoke.ops.attend.choose import top_columns, turn
from dycoke.types import check_choice, check_seed

if TYPE_CHECKING:
    from torch import Tensor

VARIANTS = ("paper", "official")
CHOICES = ("dynamic", "one_shot", "random")
DP_CACHES = ("device", "host")
PUBLISHED_REFRESH = 0.9
DEVIATIONS = (
    "A choice is carried on while the attention stays alike, as the paper says; the released code reads the whole "
    "cache at such steps.",
    "The last visual token can be pruned, because the paper exempts none; the released code counts one too few.",
    "Each row of a batch has its own choice; the released code takes the first row's for all, and asserts one row.",
    "Every request starts afresh, in variant=official too; the released code compares a request's first step with the "
    "last one of the request before, which has nothing to do with it.",
)
_NEVER = -2.0  # under every cosine
_WORD = 2**32


@dataclass
class PruningState(State):
    """State of one request. Tensors of shape [B, S] run over the columns of the prompt.

    keep [B, W] int64: visual columns read, ascending, -1 padded. selections [B] int64: how often each row chose anew.
    visual [B, S]; among [B, S]: those of them whose attention is compared. previous [B, S] fp32: the last step's.
    budget [B] int32; refresh [B] fp32: the cosine under which a row chooses anew, below any where it has no choice.
    order [B, S] int64: number of each visual column among its row's. Official variant alone: always [B, S], visual
    columns never pruned, and whole [B, W] int64, every visual column.
    """

    keep: Tensor
    selections: Tensor
    visual: Tensor
    among: Tensor
    previous: Tensor
    budget: Tensor
    refresh: Tensor
    order: Tensor
    always: Tensor | None
    whole: Tensor | None


@dataclass(frozen=True)
class DynamicPruning(Decode):
    """Dynamic pruning of the KV cache alone: decoded tokens read the visual tokens they attend to.

    Layers below `layer` read everything. The attention of layer `layer` - 1, averaged over heads, chooses the
    int(V * (1 - p)) visual tokens that layers from `layer` on read beside all text, where the cosine between it and
    the step before falls under `refresh`; the choice is carried on otherwise. Pruned tokens stay in the cache and can
    come back. variant "official" reproduces the released code: the whole cache is read where the cosine does not
    fall, and a row's last visual token is never pruned. Source: DyCoke, section 3.3.
    Raises TypeError or ValueError for options out of range.
    """

    padded_keep = True

    layer: int = field(default=PAPER_L, metadata={"help": "L, first layer that reads less of the cache, from 1"})
    p: float = field(default=PAPER_P, metadata={"help": "P, share of the visual tokens it does not read, in [0, 1)"})
    variant: Literal["paper", "official"] = field(
        default="paper", metadata={"help": "paper, or official: the released code with its quirks"}
    )
    decode: Literal["dynamic", "one_shot", "random"] = field(
        default="dynamic", metadata={"help": "dynamic, one_shot (chosen once) or random (a set of the same size)"}
    )
    refresh: float = field(
        default=PUBLISHED_REFRESH, metadata={"help": "cosine under which tokens are chosen anew; 1.0: at every step"}
    )
    seed: int = field(default=0, metadata={"help": "seed of decode=random"})
    dp_cache: Literal["device", "host"] = field(
        default="device",
        metadata={"help": "where keys and values of unread tokens are kept: device, or host (pinned memory)"},
    )

    def __post_init__(self) -> None:
        if isinstance(self.layer, bool) or not isinstance(self.layer, int):
            raise TypeError(f"l={self.layer!r}: expected an integer")
        if self.layer < 1:
            raise ValueError(
                f"l={self.layer}: expected 1 to the model's last layer, because layer l - 1 is the observer that "
                "chooses the tokens"
            )
        check_ratio("p", self.p, below_one=True)
        check_ratio("refresh", self.refresh)
        check_seed(self.seed)
        for name, accepted in (("variant", VARIANTS), ("decode", CHOICES), ("dp_cache", DP_CACHES)):
            check_choice(name, getattr(self, name), accepted)
        if self.variant == "official" and self.decode != "dynamic":
            raise ValueError(
                f"decode={self.decode!r} with variant='official': the released code has only decode='dynamic'"
            )
        if self.variant == "official" and self.dp_cache != "device":
            raise ValueError(
                f"dp_cache={self.dp_cache!r} with variant='official': the released code keeps every entry on the "
                "device and reads all of them at most steps; accepted: dp_cache='device', or variant='paper'"
            )

    @property
    def first_layer(self) -> int:
        return self.layer

    def budget(self, visual: int) -> int:
        """Visual tokens of `visual` that a step reads where it prunes; the released code leaves the last one out."""
        if self.variant == "paper":
            return kept_visual(self.p, visual)
        return kept_visual(self.p, visual - 1) + 1 if visual else 0

    def start(self, visual: Tensor) -> PruningState:
        """visual [B, S] bool -> state in which nothing has been chosen yet. Reads the device once."""
        counts = visual.sum(1).tolist()
        budgets = [self.budget(count) for count in counts]
        order = visual.long().cumsum(1) - 1
        official = self.variant == "official"
        always = visual & (order == order[:, -1:]) if official else None
        device = visual.device
        return PruningState(
            keep=torch.full((len(visual), max(counts if official else budgets)), -1, device=device),
            selections=torch.zeros(len(visual), dtype=torch.int64, device=device),
            visual=visual,
            among=visual if always is None else visual & ~always,
            previous=torch.zeros(visual.shape, dtype=torch.float32, device=device),
            budget=torch.tensor(budgets, dtype=torch.int32, device=device),
            refresh=torch.tensor([self.refresh if count else _NEVER for count in counts], device=device),
            order=order,
            always=always,
            whole=top_columns(visual.float(), visual, visual.sum(1).int(), max(counts)) if official else None,
        )

    def step(self, state: PruningState, attn: Tensor) -> None:
        """Choose anew in the rows whose attention has turned; attn [B, S] fp32."""
        anew = self._turned(state, attn)
        scores = self._random_scores(state) if self.decode == "random" else attn
        if state.always is not None:
            scores = torch.where(state.always, torch.inf, scores)
        chosen = top_columns(scores, state.visual, state.budget, state.keep.shape[1])
        kept = state.keep if state.whole is None else state.whole
        state.keep.copy_(torch.where(anew[:, None], chosen, kept))
        state.selections.add_(anew)

    def _turned(self, state: PruningState, attn: Tensor) -> Tensor:
        """Rows [B] bool that choose anew, by the cosine between this step's and the last step's attention."""
        if self.variant == "paper" and (self.decode == "one_shot" or self.refresh == 0.0):
            return (state.selections == 0) & (state.refresh > _NEVER)  # no cosine of two attentions is under 0
        if self.refresh == 1.0:  # at every step, also where rounding takes a cosine to 1
            return state.refresh > _NEVER
        # Before the first step there is no attention to compare with: its cosine counts as 0.
        return turn(attn, state.among, state.previous) < state.refresh

    def _random_scores(self, state: PruningState) -> Tensor:
        """Uniform numbers [B, S] fp32 from seed, selection and the token's number among the visual ones.

        Hashed rather than drawn, so that a step needs no generator: the same on every device and wherever a row stands.
        """
        mixed = state.order + self.seed * 0x9E3779B1 % _WORD + (state.selections * 0x85EBCA6B)[:, None]
        for shift, factor in ((16, 0x45D9F3B), (15, 0x2C1B3C6D), (16, 1)):
            mixed = mixed & (_WORD - 1)
            mixed = ((mixed ^ (mixed >> shift)) * factor) & (_WORD - 1)
        return (mixed >> 8).float() / 2**24


def kept_visual(p: float, visual: int) -> int:
    """Visual tokens a pruned decode step reads of `visual`: int(V * (1 - P)) in double, as the released code counts.

    P is the share removed, in [0, 1): P = .7 and V = 100 give 30. Source: DyCoke, section 3.3.
    """
    check_ratio("p", p, below_one=True)
    return int(visual * (1 - float(p)))
