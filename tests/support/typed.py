"""What a type checker has to accept of a stranger: frozen dataclasses and classes without our bases. mypy reads it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dycoke.bases import Before, Decode, Inside
from dycoke.methods import Full, PDrop, VidCom2
from dycoke.types import (
    Compressed,
    Compressor,
    DecodePolicy,
    LayerPruner,
    Method,
    Plan,
    PolicyState,
    Positions,
    VisualTokens,
)


@dataclass(frozen=True)
class Seen:
    """A state."""

    keep: Tensor


@dataclass(frozen=True)
class Stages:
    """All three stages, and a method, in options that cannot be set."""

    layer: int = 2
    first_layer: int = 3
    needs: frozenset[str] = frozenset()
    positions: Positions = "packed"
    raster: bool = True

    def compress(self, video: VisualTokens) -> Compressed:
        return Compressed(video.embeds, video.needed("saliency"))

    def count(self, frames: int, per_frame: int) -> int | None:
        return frames * per_frame

    def prune(self, hidden: Tensor, visual: Tensor, scores: Tensor) -> tuple[Tensor, Tensor] | None:
        return None

    def budget(self, visual: int) -> int:
        return visual

    def start(self, visual: Tensor) -> Seen:
        return Seen(visual)

    def step(self, state: Seen, attn: Tensor) -> None:
        state.keep.copy_(attn)

    def plan(self) -> Plan:
        return Plan(before=self, inside=(self, self), decode=self)


def takes(method: Method, *stages: Compressor | LayerPruner | DecodePolicy) -> None:
    """Those that follow the protocols."""


def with_bases(before: Before, inside: Inside, decode: Decode) -> Plan:
    """Our bases follow the protocols, too."""
    return Plan(before, inside, decode)


compressor: Compressor = Stages()
pruner: LayerPruner = Stages()
policy: DecodePolicy = Stages()
method: Method = Stages()
state: PolicyState = Seen(None)
takes(VidCom2(), VidCom2(), *PDrop().plan().pruners)
takes(Full(), Full().plan().compressor)
