"""Sparse decode attention by Triton kernels; `sparse_decode.sparse_decode_torch` is what they compute.

One program attends with all query heads of a group at once to the columns of one key head, or a part of them, so that
every key and value is read once. How the columns are dealt out follows from shapes alone (`_plan`):

- Enough rows and key heads for every multiprocessor: one program reads the prompt columns and then the tail, as one
  list, and writes the output.
- A few times too few: a row's list is dealt out in as many equal parts, and the last program of a row and key head to
  finish combines them.
- Fewer still: parts of a fixed number of columns, of the prompt or of the tail, and a second kernel that combines them.

Observed, the logits are written too, which a last kernel turns into the mean over the heads. No sum depends on which
program comes first, and no program reads what another leaves unwritten without discarding it.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from dycoke.ops.sparse_decode import Reads, Store, check_decode
from dycoke.ops.sparse_decode_kernels import attend_joint, attend_part, average, combine

_LOG2_E = 1.4426950408889634
_MIN_GROUP = 16  # the least number of rows of a matrix product on the tensor cores
_BLOCK_COLUMNS = 64  # of the observer's last kernel
_MANY_PARTS = 64
_FEW_PARTS = 16
_JOINT_PARTS = 8  # the most that the last program combines at once
_PER_PROCESSOR = 4  # programs wanted where prompt and tail are dealt out separately
_ON_CPU = 4  # stands in for the multiprocessors in Triton's interpreter


class Plan(NamedTuple):
    """How the columns of a row and key head are dealt out to programs.

    block: columns a loop turn reads. joint: parts of the one list of prompt and tail; 0: separate parts of `chunk`
    columns, a multiple of the block. stages: depth of the pipeline.
    """

    block: int
    joint: int
    chunk: int = 0
    warps: int = 4
    stages: int = 3


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
    query: Tensor, store: Store, reads: Reads, scale: float, *, observed: bool, plan: Plan | None = None
) -> tuple[Tensor, Tensor | None]:
    """Output and, if observed, attention. `plan` overrides the choice made from the shapes."""
    check_decode(query, store, reads)
    _check_layout(query, store)
    batch, query_heads, dim = query.shape
    heads, size, capacity = store.prompt_keys.shape[1], store.prompt_keys.shape[2], store.tail_keys.shape[2]
    indexed = reads.index is not None
    width = reads.index.shape[1] if reads.index is not None else size
    plan = plan or _plan(query, batch * heads, width, capacity, indexed)
    prompt_parts = 0 if plan.joint else triton.cdiv(width, plan.chunk)
    parts = plan.joint or prompt_parts + triton.cdiv(capacity, plan.chunk)

    scratch = {"dtype": torch.float32, "device": query.device}
    total = torch.empty(batch, query_heads, **scratch)
    part = torch.empty(batch, query_heads, parts, dim, **scratch) if parts > 1 or not plan.joint else total
    lse = torch.empty(batch, query_heads, parts, **scratch) if parts > 1 or not plan.joint else total
    logits = torch.empty(batch, query_heads, width, **scratch) if observed else total
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    count, rows, filled = reads.count.contiguous(), store.rows.contiguous(), store.filled.contiguous()
    index = count if reads.index is None else reads.index.contiguous()
    tensors = (store.prompt_keys, store.prompt_values, store.tail_keys, store.tail_values)
    strides = [stride for tensor in tensors for stride in tensor.stride()[:3]]
    inputs = (query.contiguous(), *tensors, rows, filled, count, index)
    group = query_heads // heads
    attend = {"group": group, "block_g": max(_MIN_GROUP, triton.next_power_of_2(group)), "block_n": plan.block}
    attend |= {"indexed": indexed, "dim": dim, "observed": observed, "upcast": not query.is_cuda}
    attend |= {"num_warps": plan.warps, "num_stages": plan.stages}

    with torch.cuda.device_of(query):
        if plan.joint:
            # New for each call: a lasting counter would be shared by graphs that replay at the same time.
            done = torch.zeros(batch, heads, dtype=torch.int32, device=query.device) if parts > 1 else count
            attend_joint[(heads, parts, batch)](
                *(*inputs, part, lse, logits, out, total, done, *strides, size, width, scale * _LOG2_E),
                **attend,
                whole=parts == 1,
                group_p2=triton.next_power_of_2(group),
                block_p=_JOINT_PARTS,
            )
        else:
            attend_part[(heads, parts, batch)](
                *(*inputs, part, lse, logits, *strides, size, width, prompt_parts, plan.chunk, scale * _LOG2_E),
                **attend,
            )
            block_p = _FEW_PARTS if parts <= _FEW_PARTS else _MANY_PARTS
            combine[(batch * query_heads,)](part, lse, out, total, parts, dim=dim, block_p=block_p, num_warps=4)
        if not observed:
            return out, None
        attn = (torch.zeros if indexed else torch.empty)(batch, size, **scratch)
        average[(triton.cdiv(width, _BLOCK_COLUMNS), batch)](
            *(logits, total, count, index, attn, size, width),
            indexed=indexed,
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


def _plan(query: Tensor, programs: int, width: int, capacity: int, indexed: bool) -> Plan:
    """Plan for `programs` pairs of batch row and key head that read up to width + capacity columns each.

    Numbers are the fastest measured on an H200 at 7B shapes, 1, 16 and 64 rows.
    """
    processors = _processors(query.device)
    fp32 = query.dtype == torch.float32  # without tensor cores: a larger block spills registers
    joint = 1
    if 2 * programs < 3 * processors:
        joint = max(1, round((3 if indexed else 2) * processors / programs))
    if joint <= _JOINT_PARTS:
        block = 16 if fp32 else 32 if indexed and joint > 1 else 64
        return Plan(block, min(joint, triton.cdiv(width + capacity, block)))
    idle = programs * triton.cdiv(width, 64) < processors
    block = 16 if fp32 else 32 if idle else 64
    parts = max(1, min(triton.cdiv(_PER_PROCESSOR * processors, programs), triton.cdiv(width, block)))
    return Plan(block, 0, chunk=max(1, triton.cdiv(width, parts * block)) * block)
