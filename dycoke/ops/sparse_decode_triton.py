"""Sparse decode attention as Triton kernels; `sparse_decode.sparse_decode_torch` is what they compute.

1. One program a batch row, key head and part of its columns attends with all query heads of the group at once, so that
   every key and value is read once: the part's output, normalised, and its log-sum-exp.
2. One program a row and query head weighs the parts by their log-sum-exp.
3. For the observer pass 1 also writes the logits, which one program a row and block of columns turns into the mean
   over the heads.

The parts follow from shapes alone. A part with no column to read leaves a log-sum-exp of -inf and no output; no
program reads what another leaves unwritten without discarding it. Logarithms are to the base 2.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dycoke.ops.sparse_decode import Reads, Store, check_decode

_LOG2_E = 1.4426950408889634
_MIN_GROUP = 16  # the least number of rows of a matrix product on the tensor cores
_BLOCK_COLUMNS = 64  # of the observer's last pass
_MANY_PARTS = 64
_FEW_PARTS = 16
_ON_CPU = 4  # stands in for the multiprocessors in Triton's interpreter


class Tuning(NamedTuple):
    """How pass 1 runs: columns a loop turn reads, programs wanted per multiprocessor, warps, depth of the pipeline."""

    block: int
    per_processor: int
    warps: int
    stages: int


_FULL = Tuning(block=64, per_processor=4, warps=4, stages=3)
_SHORT = Tuning(block=32, per_processor=4, warps=4, stages=3)  # where _FULL leaves multiprocessors idle
_FP32 = Tuning(block=16, per_processor=4, warps=4, stages=3)  # without tensor cores: a larger block spills registers


def sparse_decode_triton(query: Tensor, store: Store, reads: Reads, scale: float) -> Tensor:
    """Same as `sparse_decode_torch`, for a D that is a power of two from 16 on, up to 32 bits. Not differentiable.

    Raises ValueError for another D, and for keys or values whose last axis is not contiguous.
    """
    return _decode(query, store, reads, scale, observed=False)[0]


def sparse_decode_observed_triton(query: Tensor, store: Store, reads: Reads, scale: float) -> tuple[Tensor, Tensor]:
    """Same as `sparse_decode_observed_torch`, within the limits of `sparse_decode_triton`."""
    out, attn = _decode(query, store, reads, scale, observed=True)
    assert attn is not None
    return out, attn


def _decode(
    query: Tensor, store: Store, reads: Reads, scale: float, *, observed: bool, tuning: Tuning | None = None
) -> tuple[Tensor, Tensor | None]:
    """Output and, if observed, attention. `tuning` overrides the choice made from the shapes."""
    check_decode(query, store, reads)
    _check_layout(query, store)
    batch, query_heads, dim = query.shape
    heads, size, capacity = store.prompt_keys.shape[1], store.prompt_keys.shape[2], store.tail_keys.shape[2]
    width = size if reads.index is None else reads.index.shape[1]
    tuning = tuning or _tuning(query, batch * heads, width)
    chunk = _chunk(tuning, batch * heads, width, _processors(query.device))
    prompt_parts = triton.cdiv(width, chunk)
    parts = prompt_parts + triton.cdiv(capacity, chunk)

    scratch = {"dtype": torch.float32, "device": query.device}
    part = torch.empty(batch, query_heads, parts, dim, **scratch)
    lse = torch.empty(batch, query_heads, parts, **scratch)
    logits = torch.empty(batch, query_heads, width, **scratch) if observed else lse
    total = torch.empty(batch, query_heads, **scratch)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    count, rows, filled = reads.count.contiguous(), store.rows.contiguous(), store.filled.contiguous()
    index = count if reads.index is None else reads.index.contiguous()
    tensors = (store.prompt_keys, store.prompt_values, store.tail_keys, store.tail_values)
    strides = [stride for tensor in tensors for stride in tensor.stride()[:3]]
    group = query_heads // heads
    kinds = {"indexed": reads.index is not None, "dim": dim}

    with torch.cuda.device_of(query):
        _attend_part[(heads, parts, batch)](
            *(query.contiguous(), *tensors, rows, filled, count, index, part, lse, logits, *strides),
            *(size, width, prompt_parts, chunk, scale * _LOG2_E),
            **kinds,
            group=group,
            block_g=max(_MIN_GROUP, triton.next_power_of_2(group)),
            block_n=tuning.block,
            observed=observed,
            upcast=not query.is_cuda,
            num_warps=tuning.warps,
            num_stages=tuning.stages,
        )
        block_p = _FEW_PARTS if parts <= _FEW_PARTS else _MANY_PARTS
        _combine[(batch * query_heads,)](part, lse, out, total, parts, dim=dim, block_p=block_p, num_warps=4)
        if not observed:
            return out, None
        attn = torch.empty if reads.index is None else torch.zeros
        attn = attn(batch, size, **scratch)
        _average[(triton.cdiv(width, _BLOCK_COLUMNS), batch)](
            *(logits, total, count, index, attn, size, width),
            indexed=reads.index is not None,
            heads=query_heads,
            block_h=triton.next_power_of_2(query_heads),
            block_n=_BLOCK_COLUMNS,
            num_warps=4,
        )
    return out, attn


def _check_layout(query: Tensor, store: Store) -> None:
    """Raise ValueError for what the kernels cannot read."""
    dim = query.shape[-1]
    if dim < 16 or dim & (dim - 1):
        raise ValueError(f"head dim {dim}: the kernel takes powers of two from 16 on; sparse_decode_torch takes any")
    if any(x.stride(-1) != 1 for x in (store.prompt_keys, store.prompt_values, store.tail_keys, store.tail_values)):
        raise ValueError("keys and values: expected a contiguous last axis")


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else _ON_CPU


def _tuning(query: Tensor, programs: int, width: int) -> Tuning:
    """Tuning for `programs` pairs of batch row and key head that read up to `width` columns each."""
    if query.dtype == torch.float32:
        return _FP32
    idle = programs * triton.cdiv(width, _FULL.block) < _processors(query.device)
    return _SHORT if idle else _FULL


def _chunk(tuning: Tuning, programs: int, width: int, processors: int) -> int:
    """Columns of a part, a multiple of the block: as few parts as give every multiprocessor its programs."""
    parts = max(1, min(triton.cdiv(tuning.per_processor * processors, programs), triton.cdiv(width, tuning.block)))
    return max(1, triton.cdiv(width, parts * tuning.block)) * tuning.block


@triton.jit
def _product(left, right, upcast: tl.constexpr):
    """Matrix product in fp32. `upcast` for Triton's interpreter, which would multiply the bit patterns of bf16."""
    if upcast:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def _columns_of_block(index_row, start, listed, shift, indexed: tl.constexpr, block_n: tl.constexpr):
    """Columns of the block at `start`: from the index as far as it reaches, else in a row."""
    place = start + tl.arange(0, block_n)
    if not indexed:
        return place + shift
    column = tl.load(index_row + place, mask=place < listed, other=0)
    return tl.where(place < listed, column, place)


@triton.jit(do_not_specialize=["size", "width", "prompt_parts"])
def _attend_part(
    query, prompt_keys, prompt_values, tail_keys, tail_values, rows, filled, count, index, part, lse, logits,
    pk_row, pk_head, pk_column, pv_row, pv_head, pv_column, tk_row, tk_head, tk_column, tv_row, tv_head, tv_column,
    size, width, prompt_parts, chunk, factor,
    indexed: tl.constexpr, dim: tl.constexpr, group: tl.constexpr, block_g: tl.constexpr, block_n: tl.constexpr,
    observed: tl.constexpr, upcast: tl.constexpr,
):  # fmt: skip
    head, place_of_part, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    parts = tl.num_programs(1)
    in_prompt = place_of_part < prompt_parts
    listed = tl.load(count + row)
    stored = tl.load(rows + row).to(tl.int64)
    end = tl.where(in_prompt, listed, tl.load(filled + row))
    first = tl.where(in_prompt, place_of_part, place_of_part - prompt_parts) * chunk
    last = tl.minimum(first + chunk, end)
    listed = tl.where(in_prompt, listed, 0)  # nothing of the index or the logits belongs to the tail

    # One loop serves prompt and tail: which of them it reads is a choice of base pointers and strides.
    keys = tl.where(
        in_prompt, prompt_keys + stored * pk_row + head * pk_head, tail_keys + row * tk_row + head * tk_head
    )
    values = tl.where(
        in_prompt, prompt_values + stored * pv_row + head * pv_head, tail_values + row * tv_row + head * tv_head
    )
    key_step = tl.where(in_prompt, pk_column, tk_column)
    value_step = tl.where(in_prompt, pv_column, tv_column)
    shift = tl.where(in_prompt, size - listed, 0)
    index_row = index + row * width

    member = tl.arange(0, block_g)
    offset = tl.arange(0, dim)
    query_head = row * tl.num_programs(0) * group + head * group + member  # of all rows
    own = member < group
    asked = tl.load(query + query_head[:, None] * dim + offset[None, :], mask=own[:, None], other=0.0)
    top = tl.full([block_g], float("-inf"), tl.float32)
    weight_sum = tl.zeros([block_g], tl.float32)
    attended = tl.zeros([block_g, dim], tl.float32)
    column = _columns_of_block(index_row, first, listed, shift, indexed, block_n)
    for start in range(first, last, block_n):
        place = start + tl.arange(0, block_n)
        inside = place < last
        key = tl.load(keys + column[:, None] * key_step + offset[None, :], mask=inside[:, None], other=0.0)
        value = tl.load(values + column[:, None] * value_step + offset[None, :], mask=inside[:, None], other=0.0)
        logit = _product(asked, tl.trans(key), upcast) * factor
        if observed:
            slot = place if indexed else column
            at = logits + query_head[:, None] * width + slot[None, :]
            tl.store(at, logit, mask=own[:, None] & (place < tl.minimum(last, listed))[None, :])
        logit = tl.where(inside[None, :], logit, float("-inf"))
        new_top = tl.maximum(top, tl.max(logit, axis=1))
        decay = tl.exp2(top - new_top)
        weight = tl.exp2(logit - new_top[:, None])
        weight_sum = weight_sum * decay + tl.sum(weight, axis=1)
        attended = attended * decay[:, None] + _product(weight.to(value.dtype), value, upcast)
        top = new_top
        column = _columns_of_block(index_row, start + block_n, listed, shift, indexed, block_n)

    weight_sum = tl.where(weight_sum > 0, weight_sum, 1.0)
    at = query_head * parts + place_of_part
    tl.store(lse + at, top + tl.log2(weight_sum), mask=own)
    written = member < tl.where(first < last, group, 0)
    tl.store(part + at[:, None] * dim + offset[None, :], attended / weight_sum[:, None], mask=written[:, None])


@triton.jit(do_not_specialize=["parts"])
def _combine(part, lse, out, total, parts, dim: tl.constexpr, block_p: tl.constexpr):
    query_head = tl.program_id(0).to(tl.int64)
    offset = tl.arange(0, dim)
    top = -float("inf")
    weight_sum = 0.0
    mixed = tl.zeros([dim], tl.float32)
    for start in range(0, parts, block_p):
        place = start + tl.arange(0, block_p)
        at = query_head * parts + place
        real = place < parts
        each = tl.load(lse + at, mask=real, other=float("-inf"))
        output = tl.load(part + at[:, None] * dim + offset[None, :], mask=real[:, None], other=0.0)
        new_top = tl.maximum(top, tl.max(each, axis=0))
        level = tl.where(new_top == float("-inf"), 0.0, new_top)  # no part so far read anything
        weight = tl.exp2(each - level)
        decay = tl.exp2(top - level)
        weight_sum = weight_sum * decay + tl.sum(weight, axis=0)
        output = tl.where((weight > 0)[:, None], output, 0.0)  # the output of an empty part was never written
        mixed = mixed * decay + tl.sum(weight[:, None] * output, axis=0)
        top = new_top
    tl.store(out + query_head * dim + offset, (mixed / weight_sum).to(out.dtype.element_ty))
    tl.store(total + query_head, top + tl.log2(weight_sum))


@triton.jit(do_not_specialize=["size", "width"])
def _average(
    logits, total, count, index, attn, size, width,
    indexed: tl.constexpr, heads: tl.constexpr, block_h: tl.constexpr, block_n: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    slot = tl.program_id(0) * block_n + tl.arange(0, block_n)
    listed = tl.load(count + row)
    read = (slot < listed) if indexed else (slot >= size - listed) & (slot < size)
    head = tl.arange(0, block_h)
    query_head = row * heads + head
    real = (head < heads)[:, None] & read[None, :]
    logit = tl.load(logits + query_head[:, None] * width + slot[None, :], mask=real, other=float("-inf"))
    level = tl.load(total + query_head, mask=head < heads, other=0.0)
    mean = tl.sum(tl.exp2(logit - level[:, None]), axis=0) / heads
    if indexed:
        column = tl.load(index + row * width + slot, mask=read, other=0)
        tl.store(attn + row * size + column, mean, mask=read)
    else:
        tl.store(attn + row * size + slot, mean, mask=slot < size)
