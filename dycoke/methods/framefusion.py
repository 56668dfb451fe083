"""FrameFusion: tokens that repeat the frame before are merged layer by layer, then the rest is pruned once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dycoke import budget
from dycoke.bases import Inside
from dycoke.ops.attend.choose import top_columns
from dycoke.ops.tokens.survivors import going_on, marked
from dycoke.ops.tokens.temporal_merge import cosine
from dycoke.registry import register
from dycoke.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

APART = -2.0  # below every cosine
MERGING, PRUNING, DONE = "merging", "pruning", "done"


@register(
    "framefusion",
    source="FrameFusion: Combining Similarity and Importance for Video Token Reduction on Large Vision Language "
    "Models, ICCV 2025",
    paper="https://arxiv.org/abs/2501.01986",
    code="https://github.com/thu-nics/FrameFusion/tree/fbec1d2",
    retention="cost, as a mean over the layers",
    official="cost 0.3, similarity 0.6, least share merged 0.1",
    deviations=(
        "Tokens leave on entry to the next layer, where the published code takes them out between a layer's attention "
        "and its MLP, because a decoder layer offers no way in there.",
        "The cost is a share of the model's own layers, because the published code counts 28 whatever the model has.",
        "All videos of a prompt share one cost and pictures stay, because the published code knows one video; cosines "
        "are fp32.",
        "Newlines are text and stay, because the published code takes a newline column for a patch and merges it away.",
        "Merging ends before it spends more than the cost, where the published code raises an error; and where too few "
        "tokens have one before them to merge into, pruning makes up for it, where it merges across places.",
        "Any batch, each row with a phase of its own, because the published code asserts one row.",
    ),
)
@dataclass(frozen=True)
class FrameFusion(Inside):
    """Merge video tokens into the one of the same place a frame before, from layer 0 on, then prune once by attention.

    On entry to a layer, tokens whose hidden states have a cosine of at least `similarity` with the token before them
    at their place join its run, and a run becomes its mean, where it began. Merging ends at a layer that merges less
    than `least` of the tokens, and the next one prunes by the last token's attention so that all layers together cost
    the share `cost`; or where that is reached, merging the most similar only. Text keeps its place and position.
    """

    cost: float = field(default=0.3, metadata={"help": "share of the layers' visual tokens to spend, in (0, 1]"})
    similarity: float = field(default=0.6, metadata={"help": "cosine from which a token joins the one before"})
    least: float = field(default=0.1, metadata={"help": "merging ends at a layer that merges a smaller share"})

    layer = 0
    observes = "nothing"

    def __post_init__(self) -> None:
        budget.check_ratio("cost", self.cost, above_zero=True)
        budget.check_ratio("similarity", self.similarity)
        budget.check_ratio("least", self.least)

    def bound(self, visual: int, layers: int) -> int:
        """Visual tokens read by all layers together: the cost, a first layer that can merge nothing, and rounding."""
        return int(self.cost * layers * visual) + visual + layers

    def prune(self, hidden: Tensor, visual: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        raise TypeError("FrameFusion remembers what it spent: call start(prompt) for the pruners of a request")

    def start(self, prompt: Prompt) -> Sequence[Inside]:
        """The pruners of one request, one a layer. Raises ValueError where nobody knows which frame a token is of."""
        if prompt.video is None or prompt.slots is None or prompt.per_frame is None:
            raise ValueError("FrameFusion compares frames, and a bare language model knows none: use a video model")
        fusion = _Fusion(self, prompt.layers, prompt.video, prompt.slots, prompt.per_frame)
        return [_Layer(number, fusion) for number in range(prompt.layers)]


@dataclass
class _Layer(Inside):
    """What a request does on entry to one layer."""

    layer: int
    fusion: _Fusion

    @property
    def observes(self) -> str:
        # Asked while the layer before runs: pruning is decided by then.
        return "previous" if self.layer and PRUNING in self.fusion.phases else "nothing"

    def prune(self, hidden: Tensor, visual: Tensor, scores: Tensor) -> tuple[Tensor, Tensor] | None:
        return self.fusion.enter(hidden, visual, scores)

    def merge(self, hidden: Tensor, visual: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        merged = hidden if self.fusion.runs is None else run_means(hidden, *self.fusion.runs)
        return super().merge(merged, visual, index, mask)


class _Fusion:
    """The state of one request: where its tokens stand, and each row's phase and shares dropped so far."""

    def __init__(self, method: FrameFusion, layers: int, video: Tensor, slots: Tensor, per_frame: int) -> None:
        self._method, self._layers, self._per_frame = method, layers, per_frame
        self._video, self._slots = video, slots
        self._spent: list[list[float]] = [[] for _ in video]
        self.phases = [MERGING if count else DONE for count in (video >= 0).sum(1).tolist()]
        self.runs: tuple[Tensor, Tensor] | None = None  # order and joins of the layer under way, as `run_means` reads

    def enter(self, hidden: Tensor, visual: Tensor, scores: Tensor) -> tuple[Tensor, Tensor] | None:
        """Index and mask of what goes on; notes the runs to be merged."""
        self.runs = None
        if all(phase == DONE for phase in self.phases):
            return None
        video, slots = self._video.to(hidden.device), self._slots.to(hidden.device)
        ours = visual & (video >= 0)
        pruned = self._pruned(ours, scores)
        merged = self._merged(hidden, video, slots)
        leaving = pruned if merged is None else merged if pruned is None else pruned | merged
        if leaving is None:
            return None
        width = int((~leaving).sum(1).max())
        index, mask = going_on(leaving, torch.zeros_like(leaving), width)
        self._video = video.gather(1, index).where(mask, -1)
        self._slots = slots.gather(1, index).where(mask, -1)
        return index, mask

    def _pruned(self, ours: Tensor, scores: Tensor) -> Tensor | None:
        """Tokens [B, S] that leave rows whose turn it is to be pruned."""
        rows = [row for row, phase in enumerate(self.phases) if phase == PRUNING]
        if not rows:
            return None
        found = ours.sum(1).tolist()
        kept = list(found)
        for row in rows:
            ratio = drop_ratio(self._spent[row], self._method.cost, self._layers)
            kept[row] = round(found[row] * (1 - ratio))
            self.phases[row] = DONE
        counts = torch.tensor(kept, dtype=torch.int32, device=ours.device)
        return ours & ~marked(top_columns(scores, ours, counts, max(kept)), ours.shape[1])

    def _merged(self, hidden: Tensor, video: Tensor, slots: Tensor) -> Tensor | None:
        """Tokens [B, S] that join another in rows that are merging."""
        rows = [row for row, phase in enumerate(self.phases) if phase == MERGING]
        if not rows:
            return None
        order, follows = by_place(video, slots, self._per_frame)
        similar = follow_similarity(hidden, order, follows)
        above = follows & torch.ge(similar, self._method.similarity)
        found = torch.stack([above.sum(1), follows.sum(1), (video >= 0).sum(1)], 1).tolist()
        limits = [self._limit(row, *counts) for row, counts in enumerate(found)]
        most = torch.tensor(limits, dtype=torch.int32, device=hidden.device)
        chosen = top_columns(similar, follows, most, max(limits)) if max(limits) else above[:, :0].long()
        joins = marked(chosen, follows.shape[1])
        self.runs = order, joins
        return torch.zeros_like(joins).scatter_(1, order, joins)

    def _limit(self, row: int, above: int, pairs: int, total: int) -> int:
        """How many tokens of a row join others at this layer; decides what comes next.

        above: tokens similar enough to the one before; pairs: those that have one before them; total: all.
        """
        if self.phases[row] != MERGING:
            return 0
        spent, cost, share = self._spent[row], self._method.cost, above / total
        allowed = drop_ratio(spent, cost, self._layers)
        if share < allowed and drop_ratio([*spent, share], cost, self._layers) < 1:
            spent.append(share)
            self.phases[row] = PRUNING if share < self._method.least else MERGING
            return above
        if int(allowed * total) <= pairs:
            self.phases[row] = DONE
            return int(allowed * total)
        spent.append(pairs / total)
        self.phases[row] = PRUNING
        return pairs


def by_place(video: Tensor, slots: Tensor, per_frame: int) -> tuple[Tensor, Tensor]:
    """Order of the slots of each row that puts the tokens of one place side by side, and which follow another there.

    video, slots [B, S] int64, -1 where there is no video token: those come last. -> order [B, S] int64, and follows
    [B, S] bool, in that order: the token before is of the same place of the same video.
    """
    place = torch.where(video < 0, -1, video * per_frame + slots % per_frame)
    last = torch.iinfo(torch.int64).max
    # Two stable sorts: by frame, then by place, text last.
    order = slots.argsort(dim=1, stable=True)
    order = order.gather(1, torch.where(video < 0, last, place).gather(1, order).argsort(dim=1, stable=True))
    sorted_place = place.gather(1, order)
    follows = (sorted_place[:, 1:] == sorted_place[:, :-1]) & (sorted_place[:, 1:] >= 0)
    return order, torch.nn.functional.pad(follows, (1, 0))


def follow_similarity(hidden: Tensor, order: Tensor, follows: Tensor) -> Tensor:
    """Cosine [B, S] fp32 of each token of hidden [B, S, D] with the one before in `order`; -2 if it follows none."""
    ordered = hidden.gather(1, order[:, :, None].expand_as(hidden))
    return torch.nn.functional.pad(cosine(ordered[:, 1:], ordered[:, :-1]), (1, 0)).where(follows, APART)


def run_means(hidden: Tensor, order: Tensor, joins: Tensor) -> Tensor:
    """hidden [B, S, D] with the first token of each run replaced by the mean of the run.

    joins [B, S] bool, in `order`: the token belongs to the run of the one before it. Means are taken in fp32 over
    neighbours, in their order, so that they repeat exactly. Reads the device once.
    """
    ordered = hidden.gather(1, order[:, :, None].expand_as(hidden))
    heads = (~joins).flatten().nonzero().flatten()
    lengths = torch.diff(heads, append=heads.new_full((1,), joins.numel()))
    means = torch.segment_reduce(ordered.flatten(0, 1).float(), "mean", lengths=lengths, axis=0)
    ordered = ordered.flatten(0, 1).index_copy(0, heads, means.to(hidden.dtype)).view_as(ordered)
    return torch.empty_like(hidden).scatter_(1, order[:, :, None].expand_as(hidden), ordered)


def drop_ratio(spent: list[float], cost: float, layers: int) -> float:
    """Share of the tokens to drop now so that all layers together cost the share `cost` of what they would.

    spent: the shares dropped at the layers so far, each of what was left. Between 0 and 1; 1 where nothing of the cost
    is left. Source: FrameFusion, released code.
    """
    left, used = 1.0, 0.0
    for dropped in spent:
        left *= 1 - dropped
        used += left
    remaining = (layers - len(spent)) * left
    return min(1.0, max(0.0, 1 - (layers * cost - used) / remaining)) if remaining else 0.0
