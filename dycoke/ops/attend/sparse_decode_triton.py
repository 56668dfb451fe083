"""Sparse decode attention by Triton kernels; `sparse_decode.sparse_decode_torch` is what they compute.

One program attends with all query heads of a group at once to the columns of one key head, or a part of them, so that
every key and value is read once. How the columns are dealt out follows from shapes alone (`_tiling`):

- Enough rows and key heads for every multiprocessor: one program reads the prompt columns and then the tail, as one
  list, and writes the output.
- A few times too few: a row's list is dealt out in as many equal parts, and the last program of a row and key head to
  finish combines them.
- Fewer still: parts of a fixed number of columns, of the prompt or of the tail, and a second kernel that combines them.

Observed, the logits are written too, which a last kernel turns into the mean over the heads. No sum depends on which
program comes first, and no program reads what another leaves unwritten without discarding it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from dycoke.ops.attend.sparse_decode import Reads, Scratch, Store, check_decode
from dycoke.ops.attend.sparse_decode_kernels import attend_joint, attend_part, average, combine
from dycoke.ops.device import processors

_LOG2_E = 1.4426950408889634
_MIN_GROUP = 16  # the least number of rows of a matrix product on the tensor cores
_BLOCK_COLUMNS = 64  # of the observer's last kernel
_MANY_PARTS = 64
_FEW_PARTS = 16
_JOINT_PARTS = 8  # the most that the last program combines at once
_PER_PROCESSOR = 4  # programs wanted where prompt and tail are dealt out separately


class Tiling(NamedTuple):
    """How the columns of a row and key head are dealt out to programs.

    block: columns a loop turn reads. joint: parts of the one list of prompt and tail; 0: separate parts of `chunk`
    columns, a multiple of the block. stages: depth of the pipeline.
    """

    block: int
    joint: int
    chunk: int = 0
    warps: int = 4
    stages: int = 3


class Launch(NamedTuple):
    """A tiling worked out for its shapes: grids, and the keywords of each kernel. Parts as the kernels count them."""

    parts: int
    prompt_parts: int
    chunk: int
    joint: bool
    grid: tuple[int, int, int]
    attend: dict[str, Any]
    combine_grid: tuple[int]
    combine: dict[str, Any]
    average_grid: tuple[int, int]
    average: dict[str, Any]


def sparse_decode_triton(
    query: Tensor, store: Store, reads: Reads, scale: float, scratch: Scratch | None = None
) -> Tensor:
    """Same as `sparse_decode_torch`, for a D that is a power of two from 16 on, up to 32 bits. Not differentiable.

    Raises ValueError for another D.
    """
    return _decode(query, store, reads, scale, scratch, observed=False)[0]


def sparse_decode_observed_triton(
    query: Tensor, store: Store, reads: Reads, scale: float, scratch: Scratch | None = None
) -> tuple[Tensor, Tensor]:
    """Same as `sparse_decode_observed_torch`, within the limits of `sparse_decode_triton`."""
    out, attn = _decode(query, store, reads, scale, scratch, observed=True)
    assert attn is not None
    return out, attn


def _decode(
    query: Tensor,
    store: Store,
    reads: Reads,
    scale: float,
    scratch: Scratch | None = None,
    *,
    observed: bool,
    tiling: Tiling | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Output and, if observed, attention. `tiling` overrides the choice made from the shapes."""
    check_decode(query, store, reads)
    batch, query_heads, dim = query.shape
    _, heads, size, _ = store.prompt_keys.shape
    device, listed = query.device, reads.index
    width = size if listed is None else listed.shape[1]
    launch = _launch(
        *(device, query.dtype, batch, query_heads, heads, dim, width, store.tail_keys.shape[2]),
        *(listed is not None, observed, tiling),
    )
    parts, split = launch.parts, launch.parts > 1 or not launch.joint

    scratch = Scratch() if scratch is None else scratch
    total = scratch.empty("total", (batch, query_heads), device)
    part = scratch.empty("part", (batch, query_heads, parts, dim), device) if split else total
    lse = scratch.empty("lse", (batch, query_heads, parts), device) if split else total
    logits = scratch.empty("logits", (batch, query_heads, width), device) if observed else total
    query, count = query.contiguous(), reads.count.contiguous()
    index = count if listed is None else listed.contiguous()
    out = torch.empty_like(query)
    inputs = (query, store.prompt_keys, store.prompt_values, store.tail_keys, store.tail_values)
    inputs += (store.rows.contiguous(), store.filled.contiguous(), count, index, part, lse, logits)

    with torch.cuda.device_of(query):
        if launch.joint:
            done = scratch.zeros("done", (batch, heads), device) if parts > 1 else count
            attend_joint[launch.grid](
                *(*inputs, out, total, done, *store.strides, size, width, scale * _LOG2_E), **launch.attend
            )
        else:
            attend_part[launch.grid](
                *(*inputs, *store.strides, size, width, launch.prompt_parts, launch.chunk, scale * _LOG2_E),
                **launch.attend,
            )
            combine[launch.combine_grid](part, lse, out, total, parts, **launch.combine)
        if not observed:
            return out, None
        attn = (torch.empty if listed is None else torch.zeros)(batch, size, dtype=torch.float32, device=device)
        average[launch.average_grid](logits, total, count, index, attn, size, width, **launch.average)
    return out, attn


@lru_cache(maxsize=1024)  # a step asks for two or three of them; every request has its own
def _launch(
    device: torch.device,
    dtype: torch.dtype,
    batch: int,
    query_heads: int,
    heads: int,
    dim: int,
    width: int,
    capacity: int,
    indexed: bool,
    observed: bool,
    tiling: Tiling | None = None,
) -> Launch:
    """All that a call takes from its shapes. Raises ValueError for a dim the kernels cannot take."""
    if dim < 16 or dim & (dim - 1):
        raise ValueError(f"head dim {dim}: the kernel takes powers of two from 16 on; sparse_decode_torch takes any")
    tiling = tiling or _tiling(device, dtype == torch.float32, batch * heads, width, capacity, indexed)
    prompt_parts = 0 if tiling.joint else triton.cdiv(width, tiling.chunk)
    parts = tiling.joint or prompt_parts + triton.cdiv(capacity, tiling.chunk)
    group = query_heads // heads
    attend = {"group": group, "block_g": max(_MIN_GROUP, triton.next_power_of_2(group)), "block_n": tiling.block}
    attend |= {"indexed": indexed, "dim": dim, "observed": observed, "upcast": device.type != "cuda"}
    attend |= {"num_warps": tiling.warps, "num_stages": tiling.stages}
    if tiling.joint:
        attend |= {"whole": parts == 1, "group_p2": triton.next_power_of_2(group), "block_p": _JOINT_PARTS}
    block_p = _FEW_PARTS if parts <= _FEW_PARTS else _MANY_PARTS
    block_h = triton.next_power_of_2(query_heads)
    return Launch(
        *(parts, prompt_parts, tiling.chunk, tiling.joint > 0, (heads, parts, batch), attend),
        combine_grid=(batch * query_heads,),
        combine={"dim": dim, "block_p": block_p, "num_warps": 4},
        average_grid=(triton.cdiv(width, _BLOCK_COLUMNS), batch),
        average={
            **{"indexed": indexed, "heads": query_heads, "block_h": block_h, "block_n": _BLOCK_COLUMNS},
            "num_warps": 4,
        },
    )


def _tiling(device: torch.device, fp32: bool, programs: int, width: int, capacity: int, indexed: bool) -> Tiling:
    """Tiling for `programs` pairs of batch row and key head that read up to width + capacity columns each.

    Numbers are the fastest measured on an H200 at 7B shapes, 1, 16 and 64 rows. fp32 runs without tensor cores: a
    larger block spills registers.
    """
    count = processors(device)
    joint = 1
    if 2 * programs < 3 * count:
        joint = max(1, round((3 if indexed else 2) * count / programs))
    if joint <= _JOINT_PARTS:
        block = 16 if fp32 else 32 if indexed and joint > 1 else 64
        return Tiling(block, min(joint, triton.cdiv(width + capacity, block)))
    idle = programs * triton.cdiv(width, 64) < count
    block = 16 if fp32 else 32 if idle else 64
    parts = max(1, min(triton.cdiv(_PER_PROCESSOR * count, programs), triton.cdiv(width, block)))
    return Tiling(block, 0, chunk=max(1, triton.cdiv(width, parts * block)) * block)
