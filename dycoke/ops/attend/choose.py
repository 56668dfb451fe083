"""Which prompt columns a step reads: how far attention has turned, the choice, and slots of a smaller store for it.

The torch references are the definition; on CUDA the operations run `choose_triton`. Every choice is made on the device:
shapes follow from the arguments' shapes and `width` alone, and nothing is read by the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

ONE_BLOCK = 16384  # columns a kernel takes; longer rows run the reference


def top_columns(scores: Tensor, among: Tensor, budget: Tensor, width: int) -> Tensor:
    """Columns with the highest scores [B, S] fp32, `budget` [B] int32 of them a row: [B, width] int64.

    Only columns where `among` [B, S] bool holds count; a budget above their number takes all of them. They come in
    ascending order, then -1. Ties go to the lower column, -0.0 ties with 0.0, and NaN ranks below -inf. `width` must
    be at least the largest budget.
    """
    if scores.is_cuda and scores.shape[1] <= ONE_BLOCK:
        from dycoke.ops.attend.choose_triton import top_columns_triton  # Triton only where there is a GPU

        return top_columns_triton(scores, among, budget, width)
    return top_columns_torch(scores, among, budget, width)


def list_columns(read: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Ascending True columns of `read` [B, S] bool, then -1, as [B, width] int32; and how many they are, [B] int32.

    A row with more than `width` of them keeps the lowest.
    """
    if read.is_cuda and read.shape[1] <= ONE_BLOCK:
        from dycoke.ops.attend.choose_triton import list_columns_triton  # Triton only where there is a GPU

        return list_columns_triton(read, width)
    return list_columns_torch(read, width)


def plan_fetch(keep: Tensor, slots: Tensor, valid: Tensor) -> Tensor:
    """Column to fetch into each slot, -1 where none: [B, W] int32; `slots` is updated in place to the new assignment.

    keep [B, W] int64: the columns to hold from now on, ascending, then -1. slots [B, W] int32, contiguous: the column
    that each slot holds, -1 if none. valid [B, W] bool: the slots a row may use, at least as many as it keeps columns.
    A column that is already held stays where it is; the others go, in ascending order, into the other valid slots in
    slot order. Slots left over hold -1.
    """
    if keep.is_cuda and keep.shape[1] <= ONE_BLOCK:
        from dycoke.ops.attend.choose_triton import plan_fetch_triton  # Triton only where there is a GPU

        return plan_fetch_triton(keep, slots, valid)
    return plan_fetch_torch(keep, slots, valid)


def place_columns(index: Tensor, slots: Tensor, home: Tensor, first: int) -> Tensor:
    """Slot of each column of `index` [B, N] int32 in a store that holds a part of the columns: [B, N] int32.

    home [B, S] int32: the slot of every column with a place of its own (text), -1 for the others. slots [B, W] int32,
    as `plan_fetch` leaves it: the column in slot first + w, -1 if none, and none that `home` places. index -1 gives
    -1, and so does a column the store does not hold.
    """
    if index.is_cuda and index.shape[1] <= ONE_BLOCK:
        from dycoke.ops.attend.choose_triton import place_columns_triton  # Triton only where there is a GPU

        return place_columns_triton(index, slots, home, first)
    return place_columns_torch(index, slots, home, first)


def top_columns_torch(scores: Tensor, among: Tensor, budget: Tensor, width: int) -> Tensor:
    """The reference of `top_columns`, on any device."""
    number = scores == scores
    # Adding 0.0 makes a zero of -0.0, which some sorts on the GPU would tell apart.
    order = torch.where(number, scores + 0.0, 0.0).argsort(dim=1, descending=True, stable=True)
    group = torch.where(among, torch.where(number, 0, 1), 2).gather(1, order)  # numbers, then NaN, then the rest
    order = order.gather(1, group.argsort(dim=1, stable=True))
    rank = torch.arange(scores.shape[1], device=scores.device)
    taken = rank < torch.minimum(budget, among.sum(1))[:, None]
    chosen = torch.zeros_like(among).scatter_(1, order, taken)
    return list_columns_torch(chosen, width)[0].long()


def list_columns_torch(read: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The reference of `list_columns`, on any device."""
    column = torch.arange(read.shape[1], dtype=torch.int32, device=read.device).expand(read.shape)
    return _pack(column, read, width), read.sum(1).clamp(max=width).int()


def plan_fetch_torch(keep: Tensor, slots: Tensor, valid: Tensor) -> Tensor:
    """The reference of `plan_fetch`, on any device."""
    last = keep.shape[1] - 1
    ascending = torch.where(keep < 0, torch.iinfo(torch.int64).max, keep)
    place = torch.searchsorted(ascending, slots.long()).clamp(max=max(last, 0))
    stays = valid & (slots >= 0) & (keep.gather(1, place) == slots)
    held = torch.zeros_like(keep, dtype=torch.int32).scatter_add_(1, place, stays.int()) > 0
    arrivals = _pack(keep.int(), (keep >= 0) & ~held, keep.shape[1])
    free = valid & ~stays
    wanted = torch.where(free, arrivals.gather(1, (free.cumsum(1) - 1).clamp(min=0)), -1)
    slots.copy_(torch.where(stays, slots, wanted))
    return wanted


def place_columns_torch(index: Tensor, slots: Tensor, home: Tensor, first: int) -> Tensor:
    """The reference of `place_columns`, on any device."""
    columns = home.shape[1]
    slot = torch.arange(first, first + slots.shape[1], dtype=torch.int32, device=home.device).expand(slots.shape)
    unheld = torch.full_like(home[:, :1], -1)  # one more column, written by empty slots and read by -1
    table = torch.cat([home, unheld], dim=1).scatter_(1, torch.where(slots < 0, columns, slots).long(), slot)
    return torch.where(index < 0, -1, table.gather(1, torch.where(index < 0, columns, index).long()))


def _pack(values: Tensor, taken: Tensor, width: int) -> Tensor:
    """The values [B, S] where `taken` [B, S] holds, moved to the front in order: [B, width], then -1."""
    place = taken.cumsum(1) - 1
    place = torch.where(taken & (place < width), place, width)  # the column past the end takes what is left out
    packed = values.new_full((values.shape[0], width + 1), -1).scatter_(1, place, values)
    return packed[:, :width].contiguous()


EPS = 1e-8


def turn(attn: Tensor, among: Tensor, previous: Tensor) -> Tensor:
    """Cosine [B] fp32 between a step's attention [B, S] fp32 and the last one's, which it then replaces.

    Only columns where `among` [B, S] bool holds count. previous [B, S] fp32 is overwritten with what counted of attn;
    zeros stand for no step before, and give a cosine of 0. Source: DyCoke, section 3.3.
    """
    if attn.is_cuda:
        from dycoke.ops.attend.choose_triton import turn_triton  # Triton only where there is a GPU

        return turn_triton(attn, among, previous)
    return turn_torch(attn, among, previous)


def turn_torch(attn: Tensor, among: Tensor, previous: Tensor) -> Tensor:
    """The reference of `turn`, on any device."""
    seen = torch.where(among, attn, 0.0)
    cosine = torch.nn.functional.cosine_similarity(seen, previous, dim=1, eps=EPS)
    previous.copy_(seen)
    return cosine
