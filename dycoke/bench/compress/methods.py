"""The second part of `dycoke bench compress`: what `compress` of each registered method costs, as a user meets it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dycoke.bases import Before
from dycoke.bench.timing import time_eager, time_on_host
from dycoke.registry import available, build, entry
from dycoke.stages.tower import FROM_TOWER, TowerProbe
from dycoke.types import Compressed, VisualTokens

LIMIT_MS = 5.0
LIMIT_AT = "an H200 at 32 x 196 x 3584"
NOTHING = "none"
WIDTH, HEADS = 1152, 16  # SigLIP-so400m
KEYS, SCENES, QUESTION = WIDTH // HEADS, WIDTH, 32  # of a head, of the pooling head; tokens of a question


def chosen_names(text: str | None) -> list[str]:
    """Methods with a stage before the language model: all, those of "dycoke,full", or for "none" not any.

    Raises ValueError for an unknown name, one given twice, and a method without such a stage.
    """
    having = [name for name in available() if "before" in entry(name).stages]
    if text is None:
        return having
    names = [] if text.strip() == NOTHING else [name.strip() for name in text.split(",")]
    for name in names:
        if "before" not in entry(name).stages:
            raise ValueError(f"--methods {text}: {name} has no stage before the model; accepted: {', '.join(having)}")
    if len(set(names)) < len(names):
        raise ValueError(f"--methods {text}: expected every method once")
    return names


def measure(names: Sequence[str], embeds: Tensor, repeat: int, warm_up: float) -> list[dict[str, Any]]:
    """Records of these methods at their defaults on frames [T, N, D], after `warm_up` seconds of running them in turn.

    Raises RuntimeError if an output is wrong.
    """
    begin, compressors = time.monotonic(), [build(name).plan().before for name in names]
    while compressors and time.monotonic() - begin < warm_up:
        for compressor in compressors:
            compressor.compress(inputs(compressor, embeds))
    return [_measured(name, embeds, repeat) for name in names]


def measure_tower(frames: int, tokens: int, dtype: torch.dtype, device: str, repeat: int) -> dict[str, Any]:
    """Record of what methods that need it pay beside: received attention and keys of a SigLIP tower, worked out anew.

    The layer has SigLIP-so400m's width and heads, with random weights, and twice `tokens` patches along each side.
    """
    from transformers import SiglipVisionConfig, SiglipVisionModel  # --methods none does without it

    rows, cols = square_grid(tokens)
    side = 2 * max(rows, cols)
    config = SiglipVisionConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=1, image_size=14 * side, vision_use_head=False
    )
    config.patch_size = 14
    tower = SiglipVisionModel(config).to(device, dtype).eval()
    probe = TowerProbe(tower, 1, FROM_TOWER, None)
    with ExitStack() as undo, torch.no_grad():
        probe.install(undo)
        tower(torch.randn(frames, 3, config.image_size, config.image_size, device=device, dtype=dtype))
        timed = time_on_host if device == "cpu" else time_eager
        times = timed(lambda: probe.read(slice(0, frames), (side // 2, side // 2)), repeat)
    return {
        "frames": frames,
        "patches": side * side,
        "median_ms": times.median_ms,
        "iqr_ms": times.iqr_ms,
        "runs": len(times.samples),
    }


def _measured(name: str, embeds: Tensor, repeat: int) -> dict[str, Any]:
    compressor = build(name).plan().before
    video = inputs(compressor, embeds)
    output = compressor.compress(video)
    check_output(name, compressor, video, output)
    timed = time_eager if embeds.is_cuda else time_on_host
    times = timed(lambda: compressor.compress(video), repeat)
    return {
        "method": name,
        "options": {option: default for option, (default, _) in entry(name).options.items()},
        "kept_tokens": len(output.index),
        "median_ms": times.median_ms,
        "iqr_ms": times.iqr_ms,
        "runs": len(times.samples),
    }


def inputs(compressor: Before, embeds: Tensor) -> VisualTokens:
    """A video of these frames with random numbers for what the compressor needs, of the sizes of LLaVA-OneVision."""
    frames, tokens, dim = embeds.shape
    generator = torch.Generator(embeds.device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=embeds.device)

    return VisualTokens(
        embeds,
        square_grid(tokens),
        saliency=normal(frames, tokens).softmax(-1) if "saliency" in compressor.needs else None,
        keys=normal(frames, tokens, KEYS).to(embeds.dtype) if "keys" in compressor.needs else None,
        query=normal(QUESTION, dim).to(embeds.dtype) if "query" in compressor.needs else None,
        scenes=normal(frames, SCENES) if compressor.vision_head else None,
    )


def square_grid(tokens: int) -> tuple[int, int]:
    """Rows and columns of a frame: the two factors of `tokens` that are nearest to each other, the smaller first."""
    rows = next(rows for rows in range(math.isqrt(tokens), 0, -1) if tokens % rows == 0)
    return rows, tokens // rows


def check_output(name: str, compressor: Before, video: VisualTokens, output: Compressed) -> None:
    """Raise RuntimeError unless a method keeps as many tokens as it says, each in a slot of its own, and finite."""
    frames, tokens, dim = video.embeds.shape
    index, kept = output.index.cpu(), len(output.index)
    count = compressor.count(frames, tokens)
    if count is not None and kept != count:
        raise RuntimeError(f"{name}: {kept} tokens; it said {count}")
    if count is None and kept > compressor.bound(frames, tokens):
        raise RuntimeError(f"{name}: {kept} tokens; it said {compressor.bound(frames, tokens)} at most")
    if output.embeds.shape != (kept, dim) or output.embeds.dtype != video.embeds.dtype:
        raise RuntimeError(f"{name}: {output.embeds.dtype} {tuple(output.embeds.shape)} for {kept} slots")
    if len(index.unique()) < kept or not bool(((index >= 0) & (index < frames * tokens)).all()):
        raise RuntimeError(f"{name}: its slots are not distinct and within the video")
    if not bool(output.embeds.isfinite().all()):
        raise RuntimeError(f"{name}: a token is not finite")


def print_methods(record: dict[str, Any], out: Console) -> None:
    """The table of a record's methods, against the limit."""
    if not record["methods"]:
        return
    on_gpu = record["floor_ms"] is not None
    how = "eager calls on an idle GPU, launches counted in, L2 flushed" if on_gpu else "host clock, warm caches"
    out.print(f"compress of each method at its defaults; {how}; limit {LIMIT_MS:g} ms on {LIMIT_AT}", highlight=False)
    table = Table(box=box.SIMPLE)
    table.add_column("method", no_wrap=True)
    for column in ("tokens kept", "share", "median ms", "IQR ms", f"of {LIMIT_MS:g} ms"):
        table.add_column(column, justify="right", no_wrap=True)
    total = record["setting"]["frames"] * record["setting"]["tokens"]
    for row in record["methods"]:
        low, high = row["iqr_ms"]
        median, kept = row["median_ms"], row["kept_tokens"]
        share = f"{kept / total:.1%}"
        table.add_row(
            row["method"], str(kept), share, f"{median:.3f}", f"{low:.3f} to {high:.3f}", f"{median / LIMIT_MS:.0%}"
        )
    out.print(table)
    tower = record["tower"]
    if tower is not None:
        low, high = tower["iqr_ms"]
        out.print(
            f"saliency and keys for those that need them, {tower['frames']} frames of {tower['patches']} patches: "
            f"{tower['median_ms']:.3f} ms ({low:.3f} to {high:.3f})",
            highlight=False,
        )
