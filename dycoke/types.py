"""The objects that cross the seams: visual tokens, what is left of them, and the three stages of a plan.

Letters in shapes: T frames, N tokens a frame, D width of the language model, M tokens kept, B batch rows, S sequence
slots. Every count is an integer; ratios live in a method's options only (`dycoke.budget` turns one into the other).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from dycoke.bases import Before, Inside

Positions = Literal["packed", "original"]
Order = Literal["published", "raster"]
POSITIONS: tuple[str, ...] = ("packed", "original")
ORDERS: tuple[str, ...] = ("published", "raster")


@dataclass(frozen=True, slots=True)
class VisualTokens:
    """One video of one request, as an adapter hands it to a compressor.

    embeds [T, N, D] projected and pooled tokens; grid (rows, cols) of a frame with rows * cols == N;
    saliency [T, N] fp32 attention each token receives in the vision tower; keys [T, N, Dk] head-mean vision keys;
    query [Q, D] embedded question; scenes [T, C] fp32 one embedding a frame, from a pooling head. The last four are
    None unless the compressor's `needs` names them (scenes come with saliency where it names a `vision_head`).
    Raises ValueError if the shapes disagree.
    """

    embeds: Tensor
    grid: tuple[int, int]
    saliency: Tensor | None = None
    keys: Tensor | None = None
    query: Tensor | None = None
    scenes: Tensor | None = None

    def __post_init__(self) -> None:
        if self.embeds.ndim != 3:
            raise ValueError(f"embeds: expected [T, N, D], got shape {tuple(self.embeds.shape)}")
        rows, cols = self.grid
        if rows * cols != self.embeds.shape[1] or min(self.embeds.shape[:2]) < 1:
            raise ValueError(
                f"embeds {tuple(self.embeds.shape)} do not fit a grid of {rows} x {cols} tokens per frame "
                "(at least one frame and one token are needed)"
            )

    def needed(self, name: Literal["saliency", "keys", "query"]) -> Tensor:
        """What a compressor's `needs` name. Raises ValueError where it was not worked out."""
        value = {"saliency": self.saliency, "keys": self.keys, "query": self.query}[name]
        if value is None:
            raise ValueError(f"{name}: not worked out for this video; a compressor gets what its `needs` name")
        return value


@dataclass(frozen=True, slots=True)
class Compressed:
    """What a compressor returns: embeds [M, D], and the unique slots t * N + n they stand at, index [M] int64."""

    embeds: Tensor
    index: Tensor


@runtime_checkable
class Compressor(Protocol):
    """Stage 1, before the language model.

    needs: subset of {"saliency", "keys", "query"}; the adapter computes only these.
    positions: "packed" renumbers RoPE positions, "original" leaves each kept token its own (the index must ascend).
    raster: True if the index ascends; layouts with newlines inside a video refuse a compressor that reorders.
    What else is read has its defaults in the base `dycoke.bases.Before`: min_frames, vision_head, which where it is not
    empty is the path of a SigLIP checkpoint whose pooling head then gives `saliency` and `scenes`, and bound.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def positions(self) -> Positions: ...

    @property
    def raster(self) -> bool: ...

    def compress(self, video: VisualTokens) -> Compressed: ...

    def count(self, frames: int, per_frame: int) -> int | None:
        """Tokens `compress` will return for T frames of N tokens; None where that depends on the content.

        A compressor that returns None has a method `bound(frames, per_frame)`: the most tokens it may return.
        """
        ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a stage inside the language model may know of a prefill before it starts; B rows of S slots with padding.

    visual [B, S] bool, False at padding. video [B, S] int64: number of the video in its row, -1 where a slot is no
    video token; slots [B, S] int64: t * N + n within that video, -1 likewise; per_frame: N. All three are None where
    nobody knows frames. layers: depth of the language model. newlines [B, S] bool: the newlines of videos and
    pictures, False at padding, or None where nobody knows them.
    """

    visual: Tensor
    layers: int
    video: Tensor | None = None
    slots: Tensor | None = None
    per_frame: int | None = None
    newlines: Tensor | None = None


@runtime_checkable
class LayerPruner(Protocol):
    """Stage 2, in prefill, on entry to decoder layer `layer` (0 is the first).

    prune: hidden [B, S, D], visual [B, S] bool, scores [B, S] fp32, the attention of the last real row over all slots
    -> index [B, S'] int64 of the slots that go on, ascending, and mask [B, S'] bool, True at those that are no padding;
    or None: all go on. Text and padding always go on; rows that lose more than others are filled on the left with any
    slots of theirs, masked (`dycoke.ops.tokens.survivors` does all this).

    What else is read has its defaults in the base `dycoke.bases.Inside`: observes, join, option, behind, evicts,
    positions, newlines_compete, merge, start, count, counts and bound.
    """

    @property
    def layer(self) -> int: ...

    def prune(self, hidden: Tensor, visual: Tensor, scores: Tensor) -> tuple[Tensor, Tensor] | None: ...


class PolicyState(Protocol):
    """What a decode policy knows about one request.

    keep [B, W] int64: the visual columns of the cache the next layers read, each once, any order, -1 padded. Every
    tensor attribute has one row for each of the batch, so that beam search can reorder it, by `dycoke.bases.State`,
    the base that does so.
    """

    @property
    def keep(self) -> Tensor: ...


@runtime_checkable
class DecodePolicy(Protocol):
    """Stage 3, every decoded token: tensors only, no host reads, static shapes.

    first_layer: layers below see the whole cache; layer first_layer - 1 is the observer.
    budget: how many of a row's visual columns a step reads at most.
    start: visual [B, S] bool -> state, once, behind the prefill; W, the width of its `keep`, never changes.
    step: attn [B, S] fp32 of the observer (head mean, over the columns of the prompt) updates the state in place.
    What else is read has its defaults in the base `dycoke.bases.Decode`: padded_keep and dp_cache.
    """

    @property
    def first_layer(self) -> int: ...

    def budget(self, visual: int) -> int: ...

    def start(self, visual: Tensor) -> PolicyState: ...

    def step(self, state: Any, attn: Tensor) -> None: ...


@dataclass(frozen=True)
class Plan:
    """At most three small objects, one for each place where visual tokens can be removed.

    inside may be several pruners, each on a deeper layer than the one before. Objects without the bases of
    `dycoke.bases` are completed with the defaults of these. Raises TypeError for other objects and for a misspelt
    attribute, as `dycoke.bases.adopt` does; ValueError for pruners out of order.
    """

    before: Compressor | None = None
    inside: LayerPruner | tuple[LayerPruner, ...] | None = None
    decode: DecodePolicy | None = None

    def __post_init__(self) -> None:
        from dycoke.bases.adopt import (
            adopted,  # here, because the bases it completes with are made of what is in this file
        )

        for place, given in (("before", self.before), ("inside", self.inside), ("decode", self.decode)):
            if place == "inside" and isinstance(given, tuple):
                stage: Any = tuple(adopted(place, each) for each in given) or None
            else:
                stage = None if given is None else adopted(place, given)
            object.__setattr__(self, place, stage)
        layers = [pruner.layer for pruner in self.pruners]
        if layers != sorted(set(layers)):
            raise ValueError(f"Plan.inside: layers {layers}: expected each deeper than the one before")

    @property
    def compressor(self) -> Before:
        """The stage before; where there is none, the one that keeps all."""
        from dycoke.bases import KeepAll  # as in __post_init__

        return KeepAll() if self.before is None else cast("Before", self.before)

    @property
    def pruners(self) -> tuple[Inside, ...]:
        """The stage inside, as a tuple."""
        if self.inside is None:
            return ()
        return cast("tuple[Inside, ...]", self.inside if isinstance(self.inside, tuple) else (self.inside,))


@runtime_checkable
class Method(Protocol):
    """A registered method: a frozen dataclass whose fields are its options, and the plan they stand for."""

    def plan(self) -> Plan: ...


def check_choice(name: str, value: str, accepted: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of the texts accepted."""
    accepted = tuple(accepted)
    if value not in accepted:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(accepted)}")


def check_positions(value: str) -> None:
    """Raise ValueError unless `value` names a way to number the positions."""
    check_choice("positions", value, POSITIONS)


def check_layer(name: str, value: int, lowest: int = 1) -> None:
    """Raise TypeError or ValueError unless `value` can be the number of a decoder layer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r}: expected an integer")
    if value < lowest:
        raise ValueError(f"{name}={value}: expected {lowest} to the model's last layer")


def check_layers(name: str, value: tuple[int, ...], lowest: int = 0) -> None:
    """Raise TypeError or ValueError unless `value` holds numbers of decoder layers, each deeper than the one before."""
    if not isinstance(value, tuple) or not value:
        raise TypeError(f"{name}={value!r}: expected one layer or more, as [2, 4, 6]")
    for layer in value:
        check_layer(name, layer, lowest)
    if list(value) != sorted(set(value)):
        raise ValueError(f"{name}={list(value)}: expected each deeper than the one before")


def check_order(value: str) -> None:
    """Raise ValueError unless `value` names an order in which a compressor hands out its tokens."""
    check_choice("order", value, ORDERS)


def check_seed(value: int) -> None:
    """Raise ValueError unless `value` can seed a generator."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"seed={value!r}: expected an integer from 0 to 2**63 - 1")
