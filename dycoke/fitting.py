"""Whether a plan fits a language model and a number of frames, asked before any weights are read, and at attach.

Each function yields what does not fit, a line each, in the words an attach would refuse it with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dycoke.bases import Before, Decode, Inside

NEWLINES_INSIDE = ("grid", "frame")  # layouts that put newlines between the tokens of a video


def refuse(faults: Iterable[str]) -> None:
    """Raise ValueError for the first fault, if there is one."""
    for fault in faults:
        raise ValueError(fault)


def inside_faults(pruners: Sequence[Inside], layers: int) -> Iterator[str]:
    """Pruners on layers that a model of so many does not have, or that do not go together."""
    packed = False
    for pruner in pruners:
        lowest = 1 if pruner.observes == "previous" else 0
        if not lowest <= pruner.layer < layers:
            behind = pruner.behind
            yield (
                f"{pruner.option}={pruner.layer - behind}: expected {lowest - behind} to {layers - 1 - behind}, "
                f"because this model has {layers} layers"
            )
        packed = packed or pruner.positions != "original"
        if packed and pruner.evicts:
            yield f"{type(pruner).__name__}: one that evicts cannot renumber positions, nor come behind one that does"


def decode_faults(policy: Decode | None, pruners: Sequence[Inside], layers: int) -> Iterator[str]:
    """A policy whose first layer is none of the later ones of so many, or that does not go with the pruners."""
    if policy is None:
        return
    if not 1 <= policy.first_layer < layers:
        yield (
            f"l={policy.first_layer}: expected 1 to {layers - 1}, because this model has {layers} layers "
            "and layer l - 1 is the observer"
        )
    deeper = [pruner.layer for pruner in pruners if pruner.layer >= policy.first_layer]
    if policy.dp_cache == "host" and deeper:
        yield (
            f"dp_cache='host' with tokens dropped at layer {deeper[0]}: the layers from l={policy.first_layer} on "
            "must hold the same tokens there; accepted: dp_cache='device', or pruners on layers below l"
        )


def frame_faults(before: Before | None, frames: int) -> Iterator[str]:
    """A video of fewer frames than the compressor takes."""
    fewest = 1 if before is None else before.min_frames
    if frames < fewest:
        yield (
            f"{type(before).__name__} needs at least {fewest} frames, got {frames}; accepted: more frames, or a "
            "variant of the method that takes fewer"
        )


def newline_faults(before: Before | None, newline: str | None) -> Iterator[str]:
    """A compressor that reorders tokens, where the layout has newlines inside a video; None: it is not known."""
    if before is not None and newline in NEWLINES_INSIDE and not before.raster:
        yield (
            f"{before!r} emits tokens out of raster order, but mm_newline_position={newline!r} puts newlines between "
            "them; accepted: one_token or no_token, or a compressor in raster order"
        )


def order_faults(before: Before | None) -> Iterator[str]:
    """A compressor whose tokens keep their positions and are not in the order of these."""
    if before is not None and before.positions == "original" and not before.raster:
        yield f"{before!r}: positions='original' needs tokens in raster order"
