"""`similarity.turn_torch` as one Triton program a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dycoke.ops.attend.similarity import EPS

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
