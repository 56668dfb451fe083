"""Comparing attention, choosing columns and giving them slots, one Triton program per row; `choose` has the references.

Choosing keeps a row's scores in registers, as integers of the same order. Sixteen counts, of two bits each, find the
score of the last column chosen, and one prefix sum finds where every chosen column goes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dycoke.ops.attend.choose import EPS

_LOWEST = tl.constexpr(-(2**31))  # below every score's integer: a column that must not be chosen
_COLUMNS_A_WARP = 256


def top_columns_triton(scores: Tensor, among: Tensor, budget: Tensor, width: int) -> Tensor:
    """Same as `top_columns_torch`, bit for bit: at most `choose.ONE_BLOCK` columns, scores in fp32."""
    batch, columns = scores.shape
    keep = torch.empty(batch, width, dtype=torch.int64, device=scores.device)
    if batch and width:
        rows = (scores.contiguous(), among.contiguous(), budget.contiguous(), keep)
        _top[(batch,)](*rows, columns, width, **_blocks(columns, width))
    return keep


def list_columns_triton(read: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Same as `list_columns_torch`: at most `choose.ONE_BLOCK` columns."""
    batch, columns = read.shape
    index = torch.empty(batch, width, dtype=torch.int32, device=read.device)
    count = torch.empty(batch, dtype=torch.int32, device=read.device)
    if batch:
        _list[(batch,)](read.contiguous(), index, count, columns, width, **_blocks(columns, width))
    return index, count


def plan_fetch_triton(keep: Tensor, slots: Tensor, valid: Tensor) -> Tensor:
    """Same as `plan_fetch_torch`: `slots` must be contiguous."""
    batch, width = keep.shape
    wanted = torch.empty_like(slots)
    if batch and width:
        held, arriving = torch.empty_like(slots), torch.empty_like(slots)
        rows = (keep.contiguous(), slots, valid.contiguous(), wanted, held, arriving)
        block = triton.next_power_of_2(width)
        _plan[(batch,)](*rows, width, block=block, steps=block.bit_length(), num_warps=8)
    return wanted


def place_columns_triton(index: Tensor, slots: Tensor, home: Tensor, first: int) -> Tensor:
    """Same as `place_columns_torch`."""
    batch, read = index.shape
    place = torch.empty(batch, read, dtype=torch.int32, device=index.device)
    if batch and read:
        holder = torch.empty(home.shape, dtype=torch.int32, device=index.device)
        rows = (index.contiguous(), slots.contiguous(), home.contiguous(), holder, place)
        width = slots.shape[1]
        blocks = {"block": triton.next_power_of_2(read), "block_w": triton.next_power_of_2(max(width, 1))}
        _place[(batch,)](*rows, home.shape[1], read, width, first, **blocks, num_warps=8)
    return place


def _blocks(columns: int, width: int) -> dict[str, int]:
    block = triton.next_power_of_2(max(columns, 1))
    warps = min(max(block // _COLUMNS_A_WARP, 1), 16)
    return {"block": block, "block_w": triton.next_power_of_2(max(width, 1)), "num_warps": warps}


@triton.jit
def _top(scores, among, budget, keep, columns, width, block: tl.constexpr, block_w: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, block)
    real = column < columns
    at = row.to(tl.int64) * columns + column
    score = tl.load(scores + at, mask=real, other=0.0)
    eligible = tl.load(among + at, mask=real, other=0) != 0
    key = _ordered(score, eligible)
    wanted = tl.load(budget + row).to(tl.int32)
    last = _kth_largest(key, wanted)

    above = (key > last).to(tl.int32)
    tied = eligible & (key == last)
    needed = wanted - tl.sum(above)
    # Both counts are below 2**15, so one prefix sum carries them.
    before = tl.cumsum(above + (tied.to(tl.int32) << 16), axis=0)
    above_before, tied_before = before & 0xFFFF, before >> 16
    chosen = (above != 0) | (tied & (tied_before <= needed))
    place = above_before + tl.minimum(tied_before, needed) - 1
    _store(keep + row.to(tl.int64) * width, column.to(tl.int64), chosen, place, width, block_w)


@triton.jit
def _list(read, index, count, columns, width, block: tl.constexpr, block_w: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, block)
    chosen = tl.load(read + row.to(tl.int64) * columns + column, mask=column < columns, other=0) != 0
    place = tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    found = _store(index + row.to(tl.int64) * width, column, chosen, place, width, block_w)
    tl.store(count + row, tl.minimum(found, width))


@triton.jit
def _ordered(score, eligible):
    """Integers [block] int32 in the order of the scores: -0.0 equals 0.0, NaN is under -inf, the ineligible lowest."""
    bits = score.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    key = tl.where(score == 0.0, 0, key)
    key = tl.where(score == score, key, _LOWEST + 1)
    return tl.where(eligible, key, _LOWEST)


@triton.jit
def _kth_largest(key, k):
    """The largest t that at least k of the keys reach: the k-th largest key; _LOWEST if they are fewer."""
    t = tl.full([], _LOWEST, tl.int32)
    for step in range(16):
        part = tl.full([], 1, tl.int32) << (30 - 2 * step)
        t1 = t + part
        t2 = t1 + part
        t3 = t2 + part
        reach = (key >= t1).to(tl.int64) + ((key >= t2).to(tl.int64) << 20) + ((key >= t3).to(tl.int64) << 40)
        reached = tl.sum(reach)
        t = tl.where((reached & 0xFFFFF) >= k, t1, t)
        t = tl.where(((reached >> 20) & 0xFFFFF) >= k, t2, t)
        t = tl.where((reached >> 40) >= k, t3, t)
    return t


@triton.jit
def _store(out, column, chosen, place, width, block_w: tl.constexpr):
    """Write the chosen columns to their places in a row of `width`, and -1 behind them; -> how many are chosen."""
    tl.store(out + place, column, mask=chosen & (place < width))
    found = tl.sum(chosen.to(tl.int32))
    rest = tl.arange(0, block_w)
    tl.store(out + rest, tl.full([block_w], -1, column.dtype), mask=(rest >= found) & (rest < width))
    return found


@triton.jit
def _plan(keep, slots, valid, wanted, held, arriving, width, block: tl.constexpr, steps: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    keep += row
    held += row
    arriving += row
    place = tl.arange(0, block)
    real = place < width
    column = tl.load(keep + place, mask=real, other=-1).to(tl.int32)
    holds = tl.load(slots + row + place, mask=real, other=-1)
    usable = tl.load(valid + row + place, mask=real, other=0) != 0

    # Where a slot's column is among the kept ones, by halving: the kept are ascending.
    kept = tl.sum((column >= 0).to(tl.int32))
    low = tl.zeros([block], tl.int32)
    high = low + kept
    for _ in range(steps):
        middle = (low + high) >> 1
        searching = low < high
        below = tl.load(keep + middle, mask=searching, other=0) < holds
        low = tl.where(searching & below, middle + 1, low)
        high = tl.where(searching & (below == 0), middle, high)
    found = tl.load(keep + low, mask=low < kept, other=-1)
    stays = usable & (holds >= 0) & (found == holds)

    # The program's threads hand each other results through memory: every barrier parts a write from a read.
    tl.store(held + place, 0, mask=real)
    tl.debug_barrier()
    tl.store(held + low, 1, mask=stays)
    tl.debug_barrier()
    arrives = (column >= 0) & (tl.load(held + place, mask=real, other=1) == 0)
    arrivals = tl.sum(arrives.to(tl.int32))
    tl.store(arriving + tl.cumsum(arrives.to(tl.int32), axis=0) - 1, column, mask=arrives)
    tl.debug_barrier()
    free = usable & (stays == 0)
    turn = tl.cumsum(free.to(tl.int32), axis=0) - 1
    incoming = tl.load(arriving + turn, mask=free & (turn < arrivals), other=-1)
    tl.store(wanted + row + place, incoming, mask=real)
    tl.store(slots + row + place, tl.where(stays, holds, incoming), mask=real)


@triton.jit
def _place(
    index,
    slots,
    home,
    holder,
    place,
    columns,
    read,
    width,
    first,
    block: tl.constexpr,
    block_w: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slots += row * width
    holder += row * columns
    slot = tl.arange(0, block_w)
    holds = tl.load(slots + slot, mask=slot < width, other=-1)
    tl.store(holder + holds, slot, mask=holds >= 0)
    tl.debug_barrier()
    at = tl.arange(0, block)
    column = tl.load(index + row * read + at, mask=at < read, other=-1)
    own = tl.load(home + row * columns + column, mask=column >= 0, other=-1)
    # Only what a slot wrote means anything in `holder`; whether a slot did, the slot itself tells.
    found = tl.load(holder + column, mask=column >= 0, other=-1)
    inside = (found >= 0) & (found < width)
    found = tl.where(inside & (tl.load(slots + found, mask=inside, other=-1) == column), found + first, -1)
    found = tl.where(column >= 0, found, -1)
    tl.store(place + row * read + at, tl.where(own >= 0, own, found), mask=at < read)


_BLOCK = 4096


def turn_triton(attn: Tensor, among: Tensor, previous: Tensor) -> Tensor:
    """Same as `turn_torch`, up to the order of its sums; `previous` contiguous."""
    cosine = torch.empty(len(attn), dtype=torch.float32, device=attn.device)
    columns = attn.shape[1]
    _turn[(len(attn),)](attn.contiguous(), among.contiguous(), previous, cosine, columns, EPS, _BLOCK, num_warps=8)
    return cosine


@triton.jit(do_not_specialize=["columns"])
def _turn(attn, among, previous, cosine, columns, eps: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    both = tl.zeros([block], tl.float32)
    new, old = both, both
    for start in range(0, columns, block):
        column = start + tl.arange(0, block)
        inside = column < columns
        at = row * columns + column
        counts = tl.load(among + at, mask=inside, other=0) != 0
        seen = tl.where(counts, tl.load(attn + at, mask=inside, other=0.0), 0.0)
        before = tl.load(previous + at, mask=inside, other=0.0)
        both += seen * before
        new += seen * seen
        old += before * before
        tl.store(previous + at, seen, mask=inside)
    norm = tl.maximum(tl.sqrt(tl.sum(new)), eps) * tl.maximum(tl.sqrt(tl.sum(old)), eps)
    tl.store(cosine + row, tl.sum(both) / norm)
