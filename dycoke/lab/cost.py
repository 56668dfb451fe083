"""Cost of a method by arithmetic: multiply-adds, floating-point operations, bytes of the KV cache, tokens retained.

Papers on token compression print multiply-adds under the name FLOPs; a multiply-add is two floating-point operations.
They count by one of two formulas, `formula_a` and `formula_b`. Both take the language model's layers alone, without
embedding, norms, head and vision tower, and attention over all pairs of tokens, though a causal model needs half.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dycoke.model_shape import LLAVA_ONEVISION, Shape
from dycoke.types import DecodePolicy, Plan

if TYPE_CHECKING:
    from dycoke.bases import Before, Inside

SHAPES = LLAVA_ONEVISION
ANSWER = 100  # tokens of the answer in DyCoke's tables


@dataclass(frozen=True)
class Tokens:
    """Visual tokens of a request, layer by layer; not all are integers where they are means over requests.

    prefill: those that enter each layer. cached: those its KV cache holds behind prefill. decode: those of them that it
    reads in a decode step; under a policy, in one that prunes. Not given, cached is prefill. Raises ValueError unless
    there is one of each per layer.
    """

    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    cached: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.cached:
            object.__setattr__(self, "cached", self.prefill)
        if not len(self.prefill) == len(self.decode) == len(self.cached) >= 1:
            counts = f"{len(self.prefill)}, {len(self.decode)} and {len(self.cached)}"
            raise ValueError(f"tokens of {counts} layers: expected as many in prefill, decode and cached, at least one")


def planned(plan: Plan, frames: int, per_frame: int, layers: int) -> Tokens:
    """Tokens that the layers of a model read of one video under a plan: T frames of N tokens.

    Raises ValueError for a video too short for the plan, layers the model does not have, and where the count depends
    on the content of the video.
    """
    entering = _entering(plan.before, frames, per_frame)
    stages, left = [], entering
    for pruner in plan.pruners:
        left = _going_on(pruner, left, entering)
        stages.append((pruner.layer, left, pruner.evicts))
    prefill, cached = _inside(entering, stages, layers)
    return Tokens(prefill, _decoded(plan.decode, cached), cached)


def measured(usage: Mapping[str, Any], layers: int, plan: Plan | None = None) -> Tokens:
    """Tokens that the layers of a model read on average in a run, from the `usage` of its metrics.

    usage: visual_kept, tokens that entered the first layer; inside, a list of [layer, tokens that went on there];
    decode, first_layer and visual_read, tokens that layers from it on read where they hold so many; None where steps
    read all that is cached. plan: the run's, which tells what evicts; without one nothing does. Raises ValueError for
    layers the model does not have.
    """
    evicting = {pruner.layer for pruner in (plan.pruners if plan is not None else ()) if pruner.evicts}
    stages = [(layer, tokens, layer in evicting) for layer, tokens in usage["inside"]]
    prefill, cached = _inside(usage["visual_kept"], stages, layers)
    decode = usage["decode"]
    if decode is None:
        return Tokens(prefill, cached, cached)
    first = _checked(decode["first_layer"], layers, lowest=1)
    pruned = tuple(min(held, decode["visual_read"]) for held in cached[first:])
    return Tokens(prefill, cached[:first] + pruned, cached)


def formula_a(shape: Shape, tokens: Tokens, answer: int = ANSWER) -> float:
    """Multiply-adds of a request as DyCoke's tables count them: prefill, and an answer of so many tokens.

    A layer of width d and MLP width m takes 4nd^2 + 2n^2 d + 2ndm for n tokens, and 4d^2 + 2dm + 2(dn + d(R + 1) / 2)
    for each of R decoded ones that reads n: an MLP of two matrices, as many key and value heads as query heads, no
    text. answer=0 is prefill alone, as HoliTom counts. Source: DyCoke and HoliTom, whose printed figures it yields.
    """
    _check_layers(shape, tokens)
    d, m = shape.hidden, shape.intermediate
    prefill = sum(4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m for n in tokens.prefill)
    step = sum(4 * d**2 + 2 * d * m + 2 * (d * n + d * (answer + 1) / 2) for n in tokens.decode)
    return prefill + answer * step


def formula_b(shape: Shape, tokens: Tokens, text: int = 0) -> float:
    """Multiply-adds of a prefill as FastVID and FlashVID count them, `text` tokens more in every layer.

    2nd^2 (1 + g/h) + 2n^2 d + 3ndm per layer, of h query heads and g of keys and values: grouped heads and the three
    matrices of a gated MLP, as Qwen2 and Llama have them.
    """
    _check_layers(shape, tokens)
    d, m, grouped = shape.hidden, shape.intermediate, 1 + shape.kv_heads / shape.heads
    lengths = (visual + text for visual in tokens.prefill)
    return sum(2 * n * d**2 * grouped + 2 * n**2 * d + 3 * n * d * m for n in lengths)


def true_flops(shape: Shape, tokens: Tokens, text: int = 0) -> float:
    """Floating-point operations of a prefill: two for each multiply-add of `formula_b`."""
    return 2 * formula_b(shape, tokens, text)


def kv_bytes(shape: Shape, tokens: Tokens, bytes_per_value: int = 2) -> int:
    """Bytes of the visual tokens' keys and values behind prefill, wherever the method keeps them.

    What a decode policy leaves unread stays in the cache.
    """
    _check_layers(shape, tokens)
    return round(sum(tokens.cached) * shape.column_values * bytes_per_value)


def retained(tokens: Tokens, full: int) -> float:
    """Share of a video's `full` visual tokens that enters a layer in prefill, as a mean over the layers."""
    return sum(tokens.prefill) / len(tokens.prefill) / full


def retained_final(tokens: Tokens, full: int) -> float:
    """Share of a video's `full` visual tokens that the last layer reads in a decode step.

    DyCoke's tables call it the retained ratio (final): (1 - .75 K)(1 - P) under both of its stages, and what is left
    behind the last stage of a method that does not prune while decoding.
    """
    return tokens.decode[-1] / full


def _entering(compressor: Before | None, frames: int, per_frame: int) -> int:
    if compressor is None:
        return frames * per_frame
    name, fewest = type(compressor).__name__, compressor.min_frames
    if frames < fewest:
        raise ValueError(f"{name} needs at least {fewest} frames, got {frames}")
    count = compressor.count(frames, per_frame)
    if count is None:
        raise ValueError(f"{name}: how many tokens it keeps depends on the content of the video: measure a run")
    return count


def _going_on(pruner: Inside, left: int, entered: int) -> int:
    count = pruner.count(entered if pruner.counts == "entered" else left)
    if count is None:
        name = type(pruner).__name__
        raise ValueError(f"{name}: how many tokens go on depends on the content of the video: measure a run")
    return min(left, count)


def _inside(
    entering: float, stages: Iterable[tuple[int, float, bool]], layers: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Tokens that enter each layer, and that its cache holds; stages: layer, tokens that go on, whether it evicts."""
    prefill, cached = [entering] * layers, [entering] * layers
    for layer, left, evicts in stages:
        _checked(layer, layers)
        prefill[layer:] = [left] * (layers - layer)
        emptied = 0 if evicts else layer
        cached[emptied:] = [left] * (layers - emptied)
    return tuple(prefill), tuple(cached)


def _decoded(policy: DecodePolicy | None, cached: Sequence[float]) -> tuple[float, ...]:
    """Tokens each layer reads in a decode step that prunes."""
    if policy is None:
        return tuple(cached)
    first = _checked(policy.first_layer, len(cached), lowest=1)
    observed = cached[first - 1]
    read = policy.budget(observed)
    later = []
    for held in cached[first:]:
        if held < observed and read < observed:
            raise ValueError(
                f"{type(policy).__name__} on layers from {first} on, and a pruner behind them: how much of its choice "
                "goes on there depends on the content of the video: measure a run"
            )
        later.append(min(held, read))
    return (*cached[:first], *later)


def _checked(layer: int, layers: int, lowest: int = 0) -> int:
    if not lowest <= layer < layers:
        raise ValueError(f"layer {layer}: expected {lowest} to {layers - 1}, because the model has {layers} layers")
    return layer


def _check_layers(shape: Shape, tokens: Tokens) -> None:
    if len(tokens.prefill) != shape.layers:
        raise ValueError(f"tokens of {len(tokens.prefill)} layers for a model of {shape.layers}")
