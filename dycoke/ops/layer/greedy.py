"""The next token of every row where the likeliest is taken, and whether it ends the row's answer."""

from __future__ import annotations

import torch
from torch import Tensor


def greedy_tokens(logits: Tensor, ended: Tensor, ends: Tensor | None, pad: int, record: Tensor) -> Tensor:
    """Ids [B] int64 of the largest of logits [B, V], `pad` in rows that had ended.

    ended [B] bool becomes True in place where an id is one of ends [E] int64; without ends it is neither read nor
    written. record [B] int64, of any stride: gets the ids too. Ties go to the lowest id and NaN is larger than all
    numbers, as for torch.argmax. Raises ValueError for shapes that do not fit together.
    """
    check_greedy(logits, ended, ends, record)
    contiguous = ended.is_contiguous() and (ends is None or ends.is_contiguous()) and logits.stride(1) == 1
    if logits.is_cuda and logits.dtype != torch.float64 and contiguous:
        from dycoke.ops.layer.greedy_triton import greedy_tokens_triton  # Triton only where there is a GPU

        return greedy_tokens_triton(logits, ended, ends, pad, record)
    return greedy_tokens_torch(logits, ended, ends, pad, record)


def greedy_tokens_torch(logits: Tensor, ended: Tensor, ends: Tensor | None, pad: int, record: Tensor) -> Tensor:
    """The reference of `greedy_tokens`, on any device."""
    check_greedy(logits, ended, ends, record)
    return finish(logits.argmax(dim=1), ended, ends, pad, record)


def finish(chosen: Tensor, ended: Tensor, ends: Tensor | None, pad: int, record: Tensor) -> Tensor:
    """What `greedy_tokens` does with ids [B] int64, however they were chosen."""
    if ends is not None:
        chosen = torch.where(ended, pad, chosen)
        ended |= (chosen[:, None] == ends).any(dim=1)
    record.copy_(chosen)
    return chosen


def check_greedy(logits: Tensor, ended: Tensor, ends: Tensor | None, record: Tensor) -> None:
    """Raise ValueError unless all fit together."""
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(f"logits: expected [B, V] with V > 0, got shape {tuple(logits.shape)}")
    for name, each, dtype in (("ended", ended, torch.bool), ("record", record, torch.int64)):
        if each.shape != logits.shape[:1] or each.dtype != dtype:
            raise ValueError(f"{name}: expected [{len(logits)}] {dtype}, got {tuple(each.shape)} {each.dtype}")
    if ends is not None and (ends.ndim != 1 or ends.dtype != torch.int64):
        raise ValueError(f"ends: expected [E] {torch.int64}, got {tuple(ends.shape)} {ends.dtype}")
