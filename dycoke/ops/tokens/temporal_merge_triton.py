"""Temporal token merging as three Triton kernels; `temporal_merge.temporal_merge_torch` is what they compute.

1. One program a window and place reads its (up to) four tokens once, writes their similarities, and copies frame 0's
   token to its final row, so that whole frames are never read twice.
2. One program a compared frame ranks its N similarities and writes the slots that stay, in raster order.
3. One program a kept token copies its row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dycoke.ops.tokens.temporal_merge import EPS, WINDOW, check_merge

_BLOCK_D = 1024
_CHUNK = 16


def temporal_merge_triton(embeds: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Same as `temporal_merge_torch`: frames [T, N, D] -> kept tokens [M, D] and slots [M] int64. Not differentiable.

    Similarities are summed in another order than the reference's, so that tokens whose similarities differ by fp32
    rounding only may change places in the ranking.
    """
    check_merge(embeds, keep)
    embeds = embeds.contiguous()
    frames, per_frame, dim = embeds.shape
    windows = triton.cdiv(frames, WINDOW)
    compared = frames - windows
    total = windows * per_frame + compared * keep
    out = embeds.new_empty(total, dim)
    index = torch.empty(total, dtype=torch.int64, device=embeds.device)
    similarity = torch.empty(windows * WINDOW, per_frame, dtype=torch.float32, device=embeds.device)
    shape = {"per_frame": per_frame, "keep": keep}
    _similarity[(windows, per_frame)](
        embeds, similarity, out, index, frames, dim=dim, **shape, eps=EPS, block_d=_BLOCK_D, num_warps=4
    )
    if compared and keep:
        block_n = triton.next_power_of_2(per_frame)
        _select[(compared,)](similarity, index, **shape, block_n=block_n, chunk=_CHUNK, num_warps=8)
        _gather[(compared * keep,)](embeds, index, out, **shape, dim=dim, block_d=triton.next_power_of_2(dim))
    return out, index


@triton.jit
def _out_row(window, per_frame, keep):
    """Row where a window starts in the output: a window of four leaves one whole frame and three shortened ones."""
    return window.to(tl.int64) * (per_frame + 3 * keep)


@triton.jit
def _similarity(embeds, similarity, out, index, frames, dim, per_frame, keep, eps: tl.constexpr, block_d: tl.constexpr):
    window, place = tl.program_id(0), tl.program_id(1)
    first = window * 4
    slot = first.to(tl.int64) * per_frame + place
    row = _out_row(window, per_frame, keep) + place
    step = tl.cast(per_frame, tl.int64) * dim
    base = embeds + slot * dim
    d01 = tl.zeros([block_d], tl.float32)
    d02, d23, n0, n1, n2, n3 = d01, d01, d01, d01, d01, d01
    end1 = tl.where(first + 1 < frames, dim, 0)  # a tail window's missing frames read as zeros
    end2 = tl.where(first + 2 < frames, dim, 0)
    end3 = tl.where(first + 3 < frames, dim, 0)
    for start in range(0, dim, block_d):
        offset = start + tl.arange(0, block_d)
        inside = offset < dim
        raw = tl.load(base + offset, mask=inside, other=0.0)
        tl.store(out + row * dim + offset, raw, mask=inside)
        t0 = raw.to(tl.float32)
        t1 = tl.load(base + step + offset, mask=offset < end1, other=0.0).to(tl.float32)
        t2 = tl.load(base + 2 * step + offset, mask=offset < end2, other=0.0).to(tl.float32)
        t3 = tl.load(base + 3 * step + offset, mask=offset < end3, other=0.0).to(tl.float32)
        d01 += t0 * t1
        d02 += t0 * t2
        d23 += t2 * t3
        n0 += t0 * t0
        n1 += t1 * t1
        n2 += t2 * t2
        n3 += t3 * t3
    l0, l1 = tl.sqrt(tl.sum(n0)), tl.sqrt(tl.sum(n1))
    l2, l3 = tl.sqrt(tl.sum(n2)), tl.sqrt(tl.sum(n3))
    at = similarity + slot
    tl.store(at + per_frame, tl.sum(d01) / tl.maximum(l0 * l1, eps))
    tl.store(at + 2 * per_frame, tl.sum(d02) / tl.maximum(l0 * l2, eps))
    tl.store(at + 3 * per_frame, tl.sum(d23) / tl.maximum(l2 * l3, eps))
    tl.store(index + row, slot)


@triton.jit
def _select(similarity, index, per_frame, keep, block_n: tl.constexpr, chunk: tl.constexpr):
    compared = tl.program_id(0)
    window, within = compared // 3, compared % 3
    frame = window * 4 + 1 + within
    place = tl.arange(0, block_n)
    real = place < per_frame
    values = tl.load(similarity + frame * per_frame + place, mask=real, other=float("inf"))
    values = tl.where(values == values, values, float("inf"))  # NaN last, as argsort has it
    rank = tl.zeros([block_n], tl.int32)
    for start in range(0, per_frame, chunk):
        other_place = start + tl.arange(0, chunk)
        other = tl.load(similarity + frame * per_frame + other_place, mask=other_place < per_frame, other=float("inf"))
        other = tl.where(other == other, other, float("inf"))
        before = (other[None, :] < values[:, None]) | (
            (other[None, :] == values[:, None]) & (other_place[None, :] < place[:, None])
        )
        rank += tl.sum((before & (other_place < per_frame)[None, :]).to(tl.int32), axis=1)
    stays = (rank < keep) & real
    column = tl.cumsum(stays.to(tl.int32), axis=0) - 1
    row = _out_row(window, per_frame, keep) + per_frame + within * keep + column
    tl.store(index + row, frame.to(tl.int64) * per_frame + place, mask=stays)


@triton.jit
def _gather(embeds, index, out, per_frame, keep, dim, block_d: tl.constexpr):
    kept = tl.program_id(0)
    compared, column = kept // keep, kept % keep
    row = _out_row(compared // 3, per_frame, keep) + per_frame + (compared % 3) * keep + column
    offset = tl.arange(0, block_d)
    inside = offset < dim
    token = tl.load(embeds + tl.load(index + row) * dim + offset, mask=inside)
    tl.store(out + row * dim + offset, token, mask=inside)
