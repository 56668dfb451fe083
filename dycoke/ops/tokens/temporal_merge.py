"""Temporal token merging: which tokens of each compared frame stay, and the kept rows.

The torch reference is the definition; on CUDA `temporal_merge` runs `temporal_merge_triton`, unless gradients flow.
Neither reads anything back to the host: the output length follows from the shapes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 4
EPS = 1e-12  # keeps an all-zero token's similarity at 0 instead of NaN


def temporal_merge(embeds: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Kept tokens [M, D] and their slots [M] int64, in raster order, of frames [T, N, D]; `keep` per compared frame.

    Frame 0 of each window of four stays whole; frames 1 and 2 keep their `keep` least similar tokens against frame 0,
    frame 3 against frame 2 as it came in. A tail of one to three frames follows the same rule. Similarity is the
    cosine at the same place, in fp32; ties go to the lower slot. Raises ValueError unless 0 <= keep <= N.
    Source: DyCoke, section 3.2.
    """
    check_merge(embeds, keep)
    if embeds.is_cuda and not (torch.is_grad_enabled() and embeds.requires_grad):
        from dycoke.ops.tokens.temporal_merge_triton import temporal_merge_triton  # Triton only where there is a GPU

        return temporal_merge_triton(embeds, keep)
    return temporal_merge_torch(embeds, keep)


def temporal_merge_torch(embeds: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The reference of `temporal_merge`, on any device."""
    check_merge(embeds, keep)
    least_similar = window_similarity(embeds).argsort(dim=1, stable=True)[:, :keep].sort(dim=1).values
    index = window_slots(least_similar, embeds.shape[0], embeds.shape[1])
    return embeds.flatten(0, 1).index_select(0, index), index


def window_similarity(embeds: Tensor) -> Tensor:
    """Similarity of every token of the compared frames, in frame order: [T, N, D] -> [T - ceil(T / 4), N] fp32."""
    frames, per_frame, dim = embeds.shape
    whole = frames // WINDOW * WINDOW
    windows = embeds[:whole].reshape(-1, WINDOW, per_frame, dim)
    against_first = cosine(windows[:, 1:3], windows[:, :1])  # [W, 2, N]
    against_third = cosine(windows[:, 3:], windows[:, 2:3])  # [W, 1, N]
    tail = embeds[whole:]  # at most three frames: all of them but the first are compared with the first
    return torch.cat(
        [torch.cat([against_first, against_third], dim=1).flatten(0, 1), cosine(tail[1:], tail[:1])], dim=0
    )


def window_slots(within: Tensor, frames: int, per_frame: int) -> Tensor:
    """Slots of whole frames and of the tokens `within` [T - ceil(T / 4), keep] of the compared ones, in frame order."""
    device = within.device
    windows, tail = divmod(frames, WINDOW)
    compared = windows * (WINDOW - 1)
    row = torch.arange(per_frame, device=device)
    start = torch.arange(windows, device=device)[:, None] * (WINDOW * per_frame)  # [W, 1]
    offset = torch.arange(1, WINDOW, device=device)[:, None] * per_frame  # [3, 1]
    inside = (within[:compared].view(windows, WINDOW - 1, within.shape[1]) + offset).flatten(1)
    parts = [torch.cat([row.expand(windows, -1), inside], dim=1).add(start).flatten()]
    if tail:
        last = windows * WINDOW * per_frame
        parts += [row + last, (within[compared:] + offset[: tail - 1] + last).flatten()]
    return torch.cat(parts)


def cosine(tokens: Tensor, reference: Tensor) -> Tensor:
    """Cosine over the last axis in fp32, whatever the input's dtype; broadcasts."""
    tokens, reference = tokens.float(), reference.float()
    scale = tokens.norm(dim=-1) * reference.norm(dim=-1)
    return (tokens * reference).sum(-1) / scale.clamp_min(EPS)


def check_merge(embeds: Tensor, keep: int) -> None:
    """Raise ValueError unless embeds are [T, N, D] with T >= 1 and 0 <= keep <= N."""
    if embeds.ndim != 3 or embeds.shape[0] < 1:
        raise ValueError(f"embeds: expected [T, N, D] with T >= 1, got shape {tuple(embeds.shape)}")
    if not 0 <= keep <= embeds.shape[1]:
        raise ValueError(f"keep={keep}: expected 0 to {embeds.shape[1]} tokens of a frame")
