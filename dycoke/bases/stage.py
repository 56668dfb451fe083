"""Bases of the three stages of a plan: what a method does not say of itself is said here, once.

A method of one's own begins with one of these: `TopScores` where it only scores tokens, `Before`, `Inside` or
`Decode` where it does more. An object that follows a protocol of `dycoke.types` without its base is accepted, too: a
plan completes it with the same defaults (`dycoke.bases.adopt`). Letters in shapes are those of `dycoke.types`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from dycoke.ops.tokens.rank import mask_slots, top_mask
from dycoke.ops.tokens.survivors import strongest
from dycoke.types import (
    Compressed,
    LayerPruner,
    Order,
    Plan,
    Positions,
    Prompt,
    VisualTokens,
    check_order,
    check_positions,
)

if TYPE_CHECKING:
    from torch import Tensor

Stage = TypeVar("Stage")


class Before(ABC):
    """Base of a compressor, the stage before the language model; `dycoke.types.Compressor` says what is asked of it.

    needs: what the adapter is to compute beside the tokens, of saliency, keys and query. positions: "packed" renumbers
    the tokens that are left, "original" leaves each its own. vision_head: path of a SigLIP checkpoint whose pooling
    head is used; empty: none. Those that follow from options in some methods are properties.
    """

    needs: frozenset[str] = frozenset()
    positions: Positions = "packed"
    vision_head: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for positions that are neither."""
        check_positions(self.positions)

    @property
    def min_frames(self) -> int:
        """The fewest frames of a video; `compress` raises ValueError for fewer."""
        return 1

    @property
    def raster(self) -> bool:
        """Whether the slots that come out ascend."""
        return True

    def plan(self) -> Plan:
        """The plan of this stage alone, which makes a compressor a method."""
        return Plan(before=self)

    @abstractmethod
    def compress(self, video: VisualTokens) -> Compressed:
        """What is left of a video, and the slots it stands at."""

    @abstractmethod
    def count(self, frames: int, per_frame: int) -> int | None:
        """Tokens that are left of T frames of N; None where the content decides, and then `bound` is asked."""

    def bound(self, frames: int, per_frame: int) -> int:
        """The most tokens that are left of T frames of N: all, unless a method knows better."""
        counted = self.count(frames, per_frame)
        return frames * per_frame if counted is None else counted


class TopScores(Before):
    """Base of a compressor that scores every token and keeps the best, unchanged and in raster order.

    A method of one's own needs `score`, `count` and, for what these read, options.
    """

    def __post_init__(self) -> None:
        """Raises what `count` raises of its options: a bad one must fail here, not at the first video."""
        super().__post_init__()
        self.count(1, 1)

    @abstractmethod
    def score(self, video: VisualTokens) -> Tensor:
        """Scores [T, N] of the tokens; the highest stay, ties go to the lower slot."""

    @abstractmethod
    def count(self, frames: int, per_frame: int) -> int:
        """Tokens that are left of T frames of N."""

    def compress(self, video: VisualTokens) -> Compressed:
        """Raises ValueError where the scores are not [T, N]."""
        frames, per_frame = video.embeds.shape[:2]
        scores, count = self.score(video), self.count(frames, per_frame)
        if scores.shape != (frames, per_frame):
            name = type(self).__name__
            raise ValueError(f"{name}.score of shape {list(scores.shape)}: expected {[frames, per_frame]}")
        best = top_mask(scores.flatten()[None], torch.tensor([count], device=scores.device))
        index = mask_slots(best, count)
        return Compressed(video.embeds.flatten(0, 1).index_select(0, index), index)


class Ordered(Before):
    """Base of a compressor with an option `order`: as its authors hand out the tokens, or in raster order."""

    order: Order = "published"

    def __post_init__(self) -> None:
        """Raises ValueError for an order or positions that are not accepted."""
        super().__post_init__()
        check_order(self.order)

    @property
    def raster(self) -> bool:
        """True for original positions, too, which must ascend."""
        return self.order == "raster" or self.positions == "original"


@dataclass(frozen=True)
class KeepAll(Before):
    """Compressor that removes nothing: embeds [T, N, D] -> [T * N, D], index 0 .. T * N - 1."""

    def compress(self, video: VisualTokens) -> Compressed:
        """The video as it came in."""
        embeds = video.embeds.flatten(0, 1)
        return Compressed(embeds, torch.arange(len(embeds), device=embeds.device))

    def count(self, frames: int, per_frame: int) -> int:
        """All of them."""
        return frames * per_frame


class Inside(ABC):
    """Base of a pruner, the stage inside the language model; `dycoke.types.LayerPruner` says what is asked of it.

    option, behind: for messages, the option that names the layer and how many layers before `layer` its value is.
    evicts: what does not go on leaves the KV cache of the layers before, too. positions: "original", tokens keep
    theirs; "packed", they are renumbered from this layer on. counts: what `count` is told, "left", the visual tokens
    before this pruner, or "entered", those that entered the first layer; no more go on than were left.
    """

    if TYPE_CHECKING:  # an option or a property of each pruner; here, it would be the default of an option

        @property
        def layer(self) -> int:
            """The decoder layer on whose entry tokens leave, 0 the first."""

    option: str = "layer"
    behind: int = 0
    evicts: bool = False
    positions: Positions = "original"
    counts: Literal["left", "entered"] = "left"

    @property
    def observes(self) -> str:
        """Whose attention the scores are: "previous", of layer - 1; "own", of `layer`, ahead of it; "nothing"."""
        return "previous"

    @property
    def newlines_compete(self) -> bool:
        """Whether the newlines of videos and pictures are among `visual` in prune, join and merge, or are text."""
        return False

    def plan(self) -> Plan:
        """The plan of this stage alone, which makes a pruner a method."""
        return Plan(inside=self)

    @abstractmethod
    def prune(self, hidden: Tensor, visual: Tensor, scores: Tensor) -> tuple[Tensor, Tensor] | None:
        """Slots that go on, index [B, S'] int64 and mask [B, S'] bool, as in `LayerPruner`; None: all."""

    def join(self, attention: Tensor, visual: Tensor, rotary: Tensor) -> Tensor:
        """Scores [B, S] of the attention [B, H, S] of the heads: their mean.

        rotary [B, S] is what rotary embedding alone would score: a query of ones against keys of ones, where the
        tokens stand.
        """
        return attention.mean(1)

    def merge(self, hidden: Tensor, visual: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        """What goes on [B, S', D] of hidden [B, S, D]: the slots index [B, S'] as they are."""
        return hidden.gather(1, index[:, :, None].expand(-1, -1, hidden.shape[2]))

    def start(self, prompt: Prompt) -> Sequence[LayerPruner]:
        """The pruners of one request, which may carry state: this one, where it has none."""
        return [self]

    def count(self, visual: int) -> int | None:
        """Visual tokens that go on of so many; None where the content decides, and then `bound` is asked."""
        return None

    def bound(self, visual: int, layers: int) -> int:
        """The most visual tokens that all layers read together: all in each, unless a method knows better."""
        return visual * layers


class KeepMost(Inside):
    """Base of a pruner that keeps the highest scored visual tokens; ties go to the lower slot."""

    @abstractmethod
    def count(self, visual: int) -> int:
        """Visual tokens that go on of so many."""

    def prune(self, hidden: Tensor, visual: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The count(n) highest scored of a row's n visual tokens, and all text."""
        return strongest(scores, visual, self.count)


class Decode(ABC):
    """Base of a policy, the stage while decoding; `dycoke.types.DecodePolicy` says what is asked of it.

    padded_keep: `step` takes a state that was widened, as `dycoke.bases.State` does it, so that prompts of about one
    length can share a CUDA graph. dp_cache: "host" asks for the entries that are not read to live in host memory.
    """

    if TYPE_CHECKING:  # as Inside.layer

        @property
        def first_layer(self) -> int:
            """Layers below see the whole cache; layer first_layer - 1 is the observer."""

    padded_keep: bool = False
    dp_cache: Literal["device", "host"] = "device"

    def plan(self) -> Plan:
        """The plan of this stage alone, which makes a policy a method."""
        return Plan(decode=self)

    @abstractmethod
    def budget(self, visual: int) -> int:
        """How many of a row's visual columns a step reads at most."""

    @abstractmethod
    def start(self, visual: Tensor) -> Any:
        """The state of a request, of visual [B, S] bool, once behind its prefill: a `State`, best."""

    @abstractmethod
    def step(self, state: Any, attn: Tensor) -> None:
        """Update the state in place by attn [B, S] fp32, the observer's attention."""


def option_of(stage: type, name: str) -> Any:
    """The field of a method whose option is that of a stage: default and help stand there, and nowhere else."""
    declared = {each.name: each for each in fields(stage)}[name]
    return field(default=declared.default, metadata=declared.metadata)


def part(stage: type[Stage], method: Any, **given: Any) -> Stage:
    """A stage with the options that a method has under the same names, and those given."""
    shared = {each.name: getattr(method, each.name) for each in fields(stage) if each.name not in given}
    return stage(**shared, **given)
