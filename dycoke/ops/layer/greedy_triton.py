"""The likeliest token of every row by Triton kernels; `greedy_tokens_torch` is what they compute.

A row's logits are dealt out to enough programs for every multiprocessor. Each finds the best of its part as one number,
the logit's rank above what is left of the largest id, so that the larger number is the larger logit or the lower id.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dycoke.ops.device import processors
from dycoke.ops.layer.greedy import check_greedy

_BLOCK = 2048  # logits a loop turn reads
_PER_PROCESSOR = 4  # programs wanted

# Numbers that differ from request to request are not specialised on: a request would wait for the compiler.


@triton.jit(do_not_specialize=["turns"])
def _best(logits, part, row_step, vocabulary, turns, block: tl.constexpr):
    """The best of one part of a row."""
    place, row = tl.program_id(0), tl.program_id(1)
    offset = tl.arange(0, block)
    rank = tl.full([block], -2147483648, tl.int32)
    where = tl.zeros([block], tl.int32)
    for turn in range(turns):
        id = (place * turns + turn) * block + offset
        inside = id < vocabulary
        value = tl.load(logits + row.to(tl.int64) * row_step + id, mask=inside, other=0.0).to(tl.float32)
        bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)  # -0.0 ties with 0.0
        own = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # in the order of the floats
        own = tl.where(value != value, 0x7FFFFFFF, own)
        better = inside & (own > rank)
        rank, where = tl.where(better, own, rank), tl.where(better, id, where)
    both = (rank.to(tl.int64) << 32) | (0x7FFFFFFF - where).to(tl.int64)
    tl.store(part + row * tl.num_programs(0) + place, tl.max(both, axis=0))


@triton.jit(
    do_not_specialize=["record_step", "pad", "parts", "end_count"],
    do_not_specialize_on_alignment=["record"],  # a column of the ids
)
def _finish(
    part, ended, ends, record, chosen, record_step, pad, parts, end_count,
    has_ends: tl.constexpr, block_p: tl.constexpr, block_e: tl.constexpr,
):  # fmt: skip
    """The best of all parts of a row, and what it means for its answer."""
    row = tl.program_id(0)
    place = tl.arange(0, block_p)
    every = tl.load(part + row * parts + place, mask=place < parts, other=-9223372036854775808)
    id = 0x7FFFFFFF - (tl.max(every, axis=0) & 0x7FFFFFFF)
    if has_ends:
        over = tl.load(ended + row) != 0
        id = tl.where(over, pad, id)
        number = tl.arange(0, block_e)
        stops = (tl.load(ends + number, mask=number < end_count, other=0) == id) & (number < end_count)
        over = over | (tl.max(stops.to(tl.int32), axis=0) > 0)
        tl.store(ended + row, over.to(tl.uint8))
    tl.store(chosen + row, id)
    tl.store(record + row.to(tl.int64) * record_step, id)


def greedy_tokens_triton(logits: Tensor, ended: Tensor, ends: Tensor | None, pad: int, record: Tensor) -> Tensor:
    """Same as `greedy_tokens_torch`, up to 32 bits, for contiguous ended and ends and rows of logits."""
    check_greedy(logits, ended, ends, record)
    rows, vocabulary = logits.shape
    chosen = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if not rows:
        return chosen
    wanted = triton.cdiv(_PER_PROCESSOR * processors(logits.device), rows)
    turns = triton.cdiv(vocabulary, min(wanted, triton.cdiv(vocabulary, _BLOCK)) * _BLOCK)
    parts = triton.cdiv(vocabulary, turns * _BLOCK)
    part = torch.empty(rows, parts, dtype=torch.int64, device=logits.device)
    count = 0 if ends is None else len(ends)
    with torch.cuda.device_of(logits):
        _best[(parts, rows)](logits, part, logits.stride(0), vocabulary, turns, block=_BLOCK, num_warps=8)
        _finish[(rows,)](
            *(part, ended.view(torch.uint8), chosen if ends is None else ends, record, chosen, record.stride(0), pad),
            *(parts, count),
            **{"has_ends": ends is not None, "block_p": triton.next_power_of_2(parts)},
            **{"block_e": triton.next_power_of_2(max(1, count)), "num_warps": 1},
        )
    return chosen
