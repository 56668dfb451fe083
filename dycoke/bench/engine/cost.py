"""Bytes and operations that each stage needs, by arithmetic: the floors that measured times are compared with."""

from __future__ import annotations

from typing import Any

import torch

from dycoke.bench.engine.setting import Setting, Vision
from dycoke.lab.cost import Tokens, planned, true_flops
from dycoke.model_shape import Shape


def tokens_of_plan(setting: Setting, version: str, frames: int) -> Tokens | None:
    """Visual tokens that each layer reads of a video; None where that depends on its content.

    Raises ValueError for a video too short for the method.
    """
    try:
        return planned(setting.plan(version), frames, setting.vision.tokens, setting.language.layers)
    except ValueError as error:
        if "depends on the content" in str(error):
            return None
        raise


def weight_bytes(shape: Shape, dtype: torch.dtype) -> int:
    """Weights that a decode step reads: the layers' matrices and biases, the norms and the head, not the embedding."""
    d, m, kv = shape.hidden, shape.intermediate, shape.kv_heads * shape.head_dim
    layer = 2 * d * d + 2 * d * kv + 3 * d * m  # queries, output; keys, values; the gated MLP
    small = d + 2 * kv + 2 * d  # biases of queries, keys and values; two norms
    return (shape.layers * (layer + small) + d + shape.vocabulary * d) * dtype.itemsize


def step_bytes(setting: Setting, tokens: Tokens, decoded: float, rows: int = 1) -> float:
    """Bytes a decode step of so many rows must read: the weights once, and the columns each layer reads of each row.

    decoded: tokens of the answer that are cached by then, a mean over steps.
    """
    columns = sum(tokens.decode) + setting.language.layers * (setting.text + decoded)
    cached = rows * columns * setting.language.column_bytes(setting.torch_dtype)
    return weight_bytes(setting.language, setting.torch_dtype) + cached


def vision_flops(vision: Vision, language: Shape, frames: int) -> float:
    """Operations of the tower and the projector on frames, two for a multiply-add."""
    n, d, m = vision.patches, vision.hidden, vision.intermediate
    layer = 8 * n * d**2 + 4 * n**2 * d + 4 * n * d * m
    patches = 2 * n * 3 * vision.patch**2 * d
    projector = 2 * n * (d * language.hidden + language.hidden**2)
    return frames * (vision.layers * layer + patches + projector)


def prefill_flops(setting: Setting, tokens: Tokens) -> float:
    """Operations of a prefill: those of `true_flops`, of whose attention a causal model needs half."""
    attention = sum(2 * (visual + setting.text) ** 2 * setting.language.hidden for visual in tokens.prefill)
    return true_flops(setting.language, tokens, setting.text) - attention


def compress_bytes(setting: Setting, frames: int, kept: int) -> int:
    """Bytes a compressor must move: the visual tokens of a video read once, those it keeps written once."""
    return (frames * setting.vision.tokens + kept) * setting.language.hidden * setting.torch_dtype.itemsize


def against_floor(median_ms: float, nbytes: float | None, ceilings: dict[str, Any]) -> dict[str, float | None]:
    """Time that bytes take at the stream's speed, how many times as long it took, and the GB/s it reached."""
    if nbytes is None:
        return {"bytes": None, "floor_ms": None, "of_floor": None, "gb_per_s": None}
    floor = nbytes / ceilings["gb_per_s"] / 1e6
    return {
        "bytes": nbytes,
        "floor_ms": floor,
        "of_floor": median_ms / floor,
        "gb_per_s": nbytes / median_ms / 1e6,
    }


def against_matmul(median_ms: float, flops: float | None, ceilings: dict[str, Any]) -> dict[str, float | None]:
    """TFLOP/s that a stage reached, and its share of the matmul's."""
    if flops is None or not median_ms:
        return {"flops": flops, "tflop_per_s": None, "of_matmul": None}
    rate = flops / median_ms / 1e9
    return {"flops": flops, "tflop_per_s": rate, "of_matmul": rate / ceilings["tflop_per_s"]}


def shares(stages: dict[str, float], total: float) -> dict[str, float]:
    """Share of each stage in the total milliseconds; what the stages leave of it is "rest"."""
    parts = stages | {"rest": total - sum(stages.values())}
    return {name: ms / total for name, ms in parts.items()}


def mean_decoded(first: int, last: int) -> float:
    """Tokens cached ahead of a step, as a mean over the steps that make tokens first + 1 to last of an answer."""
    return sum(range(first, last)) / (last - first)
