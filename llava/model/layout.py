"""Pooling of frame features and the newline layouts of a packed video, as functions on tensors."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

POOL_MODES = ("average", "max", "bilinear")
NEWLINE_POSITIONS = ("one_token", "grid", "frame", "no_token")


class Block(NamedTuple):
    """One video or image as it is spliced into a prompt.

    tokens [S, D]; slots [S] int64, the offset of each token in the uncompressed block; visual [S] bool, False at
    newlines; full_length, the length of the uncompressed block; index [S] int64, the slot t * N + n of each token of a
    video, -1 at newlines, None for an image.
    """

    tokens: Tensor
    slots: Tensor
    visual: Tensor
    full_length: int
    index: Tensor | None = None


def pool_frames(features: Tensor, side: int, mode: str, stride: int = 2) -> tuple[Tensor, tuple[int, int]]:
    """Pool square frames of tokens by `stride` and return them with their new (rows, cols).

    features [T, side * side, D] -> [T, rows * cols, D], row-major. "average" and "max" drop a last odd row and
    column, "bilinear" rounds the side up. Raises ValueError on another mode or a token count that is not side^2.
    """
    if mode not in POOL_MODES:
        raise ValueError(f"mm_spatial_pool_mode {mode!r}: expected one of {', '.join(POOL_MODES)}")
    frames, tokens, dim = features.shape
    if tokens != side * side:
        raise ValueError(f"{tokens} tokens per frame do not make a {side} x {side} grid")
    maps = features.view(frames, side, side, dim).permute(0, 3, 1, 2)
    if mode == "average":
        pooled = functional.avg_pool2d(maps, stride)
    elif mode == "max":
        pooled = functional.max_pool2d(maps, stride)
    else:
        size = math.ceil(side / stride)
        pooled = functional.interpolate(maps, size=(size, size), mode="bilinear")
    rows, cols = pooled.shape[-2:]
    return pooled.flatten(2).transpose(1, 2).contiguous(), (rows, cols)


def pack_video(
    embeds: Tensor,
    index: Tensor,
    frames: int,
    grid: tuple[int, int],
    newline_position: str,
    newline: Tensor | None,
) -> Block:
    """Lay out the surviving tokens of a video with the newlines that remain.

    embeds [M, D] are the tokens, index [M] int64 their unique slots t * N + n, newline [D] the learned separator.
    "one_token" puts one newline at the very end, "grid" one after each row and "frame" one after each frame that
    keeps at least one token, "no_token" none. Tokens stay in the given order, for "grid" and "frame" grouped
    (stably) by row or frame. With every token kept in order the result is LLaVA-NeXT's layout. Reads nothing back
    to the host, except for the number of surviving groups when tokens were dropped under "grid" or "frame".
    Raises ValueError on another position, a missing newline, or embeds and index of different lengths, TypeError
    on slots of another dtype.
    """
    if newline_position not in NEWLINE_POSITIONS:
        expected = ", ".join(NEWLINE_POSITIONS)
        raise ValueError(f"mm_newline_position {newline_position!r}: expected one of {expected}")
    if newline is None and newline_position != "no_token":
        raise ValueError(f"newline position {newline_position!r} needs a model with image_newline")
    if index.shape != embeds.shape[:1]:
        raise ValueError(f"{embeds.shape[0]} tokens come with {tuple(index.shape)} slots; expected one each")
    if index.dtype != torch.int64:
        raise TypeError(f"slots are {index.dtype}; expected torch.int64")
    rows, cols = grid
    total = frames * rows * cols
    if newline_position in ("one_token", "no_token"):
        kept = torch.ones_like(index, dtype=torch.bool)
        if newline_position == "no_token":
            return Block(embeds, index, kept, total, index)
        end = index.new_full((1,), total)
        return Block(
            torch.cat((embeds, newline[None].to(embeds))),
            torch.cat((index, end)),
            torch.cat((kept, kept.new_zeros(1))),
            total + 1,
            torch.cat((index, end.new_full((1,), -1))),
        )
    size = cols if newline_position == "grid" else rows * cols
    return _pack_groups(embeds, index, total, size, newline)


def _pack_groups(embeds: Tensor, index: Tensor, total: int, size: int, newline: Tensor) -> Block:
    """Put a newline behind each group of `size` consecutive slots of which a token survives."""
    device = index.device
    groups = total // size
    group = index // size
    ends = torch.arange(groups, device=device)
    if index.shape[0] < total:
        alive = torch.zeros(groups, dtype=torch.bool, device=device).index_fill_(0, group, True)
        ends = ends[alive]
    # A token's key is its group, a newline's too; newlines come last in the list, so the stable sort closes each
    # group with its newline.
    order = torch.argsort(torch.cat((group, ends)), stable=True)
    tokens = torch.cat((embeds, newline[None].to(embeds).expand(ends.shape[0], -1)))[order]
    slots = torch.cat((index + group, ends * (size + 1) + size))[order]
    visual = torch.cat((torch.ones_like(index, dtype=torch.bool), torch.zeros_like(ends, dtype=torch.bool)))[order]
    return Block(tokens, slots, visual, total + groups, torch.cat((index, torch.full_like(ends, -1)))[order])


def pack_image(tokens: Tensor, newline_columns: Tensor | None = None) -> Block:
    """Wrap the tokens [S, D] of an image; newline_columns [S] bool marks the newlines among them."""
    length = tokens.shape[0]
    slots = torch.arange(length, device=tokens.device)
    visual = torch.ones(length, dtype=torch.bool, device=tokens.device)
    if newline_columns is not None:
        visual = ~newline_columns
    return Block(tokens, slots, visual, length)
