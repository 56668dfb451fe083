"""Attention of one new token over chosen prompt columns and the decoded tail, per row and without copying the cache.

The torch reference is the definition; on CUDA `sparse_decode` and `sparse_decode_observed` run the kernels of
`sparse_decode_triton`. Neither reads anything back to the host: what changes from step to step is a device tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Store:
    """One layer's keys and values: the prompt's, written once, and the decoded tokens', written one a step.

    prompt_keys, prompt_values [P, H, S, D] and tail_keys, tail_values [B, H, T, D], any strides but a contiguous last
    axis; rows [B] int32, the prompt row each batch row reads (beams share or swap rows instead of copying keys);
    filled [B] int32, how many tail columns are valid, the current token's included. The rest of the tail may hold
    anything. strides: of the four, first three axes each, in their order.

    Checked when it is made, not at each of the steps that read it. Raises ValueError for shapes that do not fit
    together and for keys or values whose last axis is not contiguous.
    """

    prompt_keys: Tensor
    prompt_values: Tensor
    tail_keys: Tensor
    tail_values: Tensor
    rows: Tensor
    filled: Tensor
    strides: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        prompt, tail = self.prompt_keys.shape, self.tail_keys.shape
        if self.prompt_values.shape != prompt or self.tail_values.shape != tail:
            raise ValueError("values: expected the shapes of the keys")
        if self.filled.ndim != 1:
            raise ValueError(f"filled: expected [B], got shape {tuple(self.filled.shape)}")
        (batch,), (_, heads, _, dim) = self.filled.shape, prompt
        if tail[:2] != (batch, heads) or tail[3] != dim:
            raise ValueError(f"tail {tuple(tail)}: expected [{batch}, {heads}, T, {dim}]")
        if self.rows.shape != (batch,):
            raise ValueError(f"rows: expected [{batch}], got shape {tuple(self.rows.shape)}")
        strides = [each.stride() for each in (self.prompt_keys, self.prompt_values, self.tail_keys, self.tail_values)]
        if any(stride[3] != 1 for stride in strides):
            raise ValueError("keys and values: expected a contiguous last axis")
        object.__setattr__(self, "strides", tuple(step for stride in strides for step in stride[:3]))


@dataclass(frozen=True, slots=True)
class Reads:
    """The prompt columns a step reads: `count` [B] int32 of them in each row.

    index [B, N] int32: the first count[b] entries of row b, unique and in any order; the rest is ignored and may be -1.
    Without an index: the last count[b] columns, which skips left padding.
    """

    count: Tensor
    index: Tensor | None = None


class Scratch:
    """Working memory of the kernels on one device, kept from call to call: allocating costs a step more than using it.

    Serves calls that follow each other on the device, such as the layers of one request in turn; calls that may run at
    the same time need one each, and so do graphs that may be replayed at the same time. Lives as long as any graph
    that was captured with it. What a capture asks for first is not kept: it belongs to that graph's memory, so warm up
    with the same shapes to have the graph use what is here.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def empty(self, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """fp32, holding anything."""
        buffer = self._buffers.get((name, shape))
        return self._keep(name, torch.empty(shape, dtype=torch.float32, device=device)) if buffer is None else buffer

    def zeros(self, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """int32, zero if every user so far has left it at zero."""
        buffer = self._buffers.get((name, shape))
        if buffer is None:
            return self._keep(name, torch.zeros(shape, dtype=torch.int32, device=device))
        return buffer

    def _keep(self, name: str, buffer: Tensor) -> Tensor:
        if not (buffer.is_cuda and torch.cuda.is_current_stream_capturing()):
            self._buffers[name, tuple(buffer.shape)] = buffer
        return buffer


def sparse_decode(query: Tensor, store: Store, reads: Reads, scale: float, scratch: Scratch | None = None) -> Tensor:
    """Attention of query [B, Hq, D] -> [B, Hq, D], in its dtype: softmax(q k^T * scale) v over what `reads` names.

    Read are the prompt columns of `reads` and the filled tail; at least one of both together. Query head h shares key
    head h // (Hq / H). Arithmetic is fp32 (float64 for float64). Not differentiable on CUDA. scratch: for the kernels;
    without it they allocate what they need at each call. Raises ValueError for shapes that do not fit together.
    """
    if _has_kernel(query):
        from dycoke.ops.attend.sparse_decode_triton import sparse_decode_triton  # Triton only where there is a GPU

        return sparse_decode_triton(query, store, reads, scale, scratch)
    return sparse_decode_torch(query, store, reads, scale)


def sparse_decode_observed(
    query: Tensor, store: Store, reads: Reads, scale: float, scratch: Scratch | None = None
) -> tuple[Tensor, Tensor]:
    """`sparse_decode`, and the attention [B, S] fp32 of each prompt column: its probability, mean over the Hq heads.

    Columns not read have 0; the tail's share is what a row lacks to 1. float64 for a float64 query.
    """
    if _has_kernel(query):
        from dycoke.ops.attend.sparse_decode_triton import sparse_decode_observed_triton

        return sparse_decode_observed_triton(query, store, reads, scale, scratch)
    return sparse_decode_observed_torch(query, store, reads, scale)


def sparse_decode_torch(query: Tensor, store: Store, reads: Reads, scale: float) -> Tensor:
    """The reference of `sparse_decode`, on any device and for any head dimension."""
    check_decode(query, store, reads)
    return _attend(query, store, *_columns(store, reads), scale)[0]


def sparse_decode_observed_torch(query: Tensor, store: Store, reads: Reads, scale: float) -> tuple[Tensor, Tensor]:
    """The reference of `sparse_decode_observed`, on any device and for any head dimension."""
    check_decode(query, store, reads)
    columns, read = _columns(store, reads)
    out, attn = _attend(query, store, columns, read, scale)
    blank = attn.new_zeros(query.shape[0], store.prompt_keys.shape[2])
    return out, blank.scatter_add(1, columns, attn)  # entries past the count add 0 to the column they were clamped to


def check_decode(query: Tensor, store: Store, reads: Reads) -> None:
    """Raise ValueError unless query and reads fit the store, which was checked when it was made."""
    if query.ndim != 3:
        raise ValueError(f"query: expected [B, Hq, D], got shape {tuple(query.shape)}")
    batch, query_heads, dim = query.shape
    rows, heads, _, stored = tail = store.tail_keys.shape
    if query_heads % heads or stored != dim:
        raise ValueError(f"query {tuple(query.shape)}: heads and dim do not fit keys {tuple(store.prompt_keys.shape)}")
    if rows != batch:
        raise ValueError(f"tail {tuple(tail)}: expected [{batch}, {heads}, T, {dim}]")
    if reads.count.shape != (batch,):
        raise ValueError(f"count: expected [{batch}], got shape {tuple(reads.count.shape)}")
    if reads.index is not None and (reads.index.ndim != 2 or reads.index.shape[0] != batch):
        raise ValueError(f"index: expected [{batch}, N], got shape {tuple(reads.index.shape)}")


def _has_kernel(query: Tensor) -> bool:
    """Whether the kernels take this query: on CUDA, of at most 32 bits, with a power of two from 16 on as its dim."""
    dim = query.shape[-1]
    return query.is_cuda and query.dtype != torch.float64 and dim >= 16 and dim & (dim - 1) == 0


def _columns(store: Store, reads: Reads) -> tuple[Tensor, Tensor]:
    """Prompt columns [B, W] int64, in range, and which of them are read [B, W] bool."""
    size = store.prompt_keys.shape[2]
    count = reads.count[:, None]
    if reads.index is not None:
        place = torch.arange(reads.index.shape[1], device=count.device)
        return reads.index.long().clamp(0, size - 1), place < count
    column = torch.arange(size, device=count.device).expand(count.shape[0], -1)
    return column, column >= size - count


def _attend(query: Tensor, store: Store, columns: Tensor, read: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output [B, Hq, D] and the probability of each of the `columns` [B, W], mean over the heads."""
    exact = torch.float64 if query.dtype == torch.float64 else torch.float32
    batch, query_heads, dim = query.shape
    row = store.rows.long()[:, None]
    tail = torch.arange(store.tail_keys.shape[2], device=query.device) < store.filled[:, None]
    valid = torch.cat([read, tail], dim=1)  # [B, W + T]

    def gather(prompt: Tensor, tail: Tensor) -> Tensor:
        both = torch.cat([prompt[row, :, columns], tail.transpose(1, 2)], dim=1)  # [B, W + T, H, D]
        return both.to(exact).masked_fill(~valid[:, :, None, None], 0)  # what is not valid may be NaN

    keys = gather(store.prompt_keys, store.tail_keys)
    values = gather(store.prompt_values, store.tail_values)
    grouped = query.to(exact).reshape(batch, keys.shape[2], -1, dim)  # [B, H, G, D]
    logits = torch.einsum("bhgd,bnhd->bhgn", grouped, keys) * scale
    probability = logits.masked_fill(~valid[:, None, None], float("-inf")).softmax(-1)
    out = torch.einsum("bhgn,bnhd->bhgd", probability, values).reshape(batch, query_heads, dim)
    return out.to(query.dtype), probability[..., : columns.shape[1]].mean(dim=(1, 2))
