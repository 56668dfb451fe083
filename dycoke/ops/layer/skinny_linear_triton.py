"""Linear layers of a decode step by Triton kernels; `skinny_linear.skinny_linear_torch` is what they compute.

A step is as fast as its weights are read. A single row needs no tensor cores: its norm is worked out anew by every
program, and the weights stream past it. More rows are padded to a block of the tensor cores, and normalised by the
kernel of `norms_triton`. Where a weight has too few rows for every multiprocessor, its sums are split into parts, which
the last program of a tile to finish adds in their order: no result depends on which program comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from dycoke.ops.attend.sparse_decode import Scratch
from dycoke.ops.device import processors, shared_memory
from dycoke.ops.layer.fused_triton import rms_norm_triton
from dycoke.ops.layer.skinny_linear import FEW_ROWS, Biases, Norm, check_linear
from dycoke.ops.layer.skinny_linear_kernels import one_row, some_rows

_LEAST_BLOCK = 16  # rows of a block of the tensor cores
_SOME, _MANY = 80, 512  # output columns a multiprocessor: of an MLP's first half, of a head
_LONG = 8192  # columns of a weight from which on there are turns enough for longer ones


class Tiling(NamedTuple):
    """How a linear is dealt out to programs.

    block_n: rows of a weight a program takes. block_k: columns a loop turn reads. splits: parts of a sum. depth: of the
    pipeline. tensor: on the tensor cores; swap: there, weights are the left side of the product.
    """

    block_n: int
    block_k: int
    splits: int = 1
    warps: int = 4
    depth: int = 3
    tensor: bool = True
    swap: bool = True


class Launch(NamedTuple):
    """A tiling worked out for its shapes: the grid and the keywords of the kernel."""

    block_r: int
    tiles: int
    splits: int
    grid: tuple[int, int]
    keywords: dict[str, Any]


def skinny_linear_triton(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Biases | None = None,
    *,
    norm: Norm | None = None,
    gate: bool = False,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    scratch: Scratch | None = None,
    tiling: Tiling | None = None,
) -> Tensor:
    """Same as `skinny_linear_torch`, up to 32 bits, for contiguous weights, residual and out. Not differentiable."""
    check_linear(x, weights, biases, norm, gate, residual, out)
    rows, k = x.shape
    sizes = tuple(weight.shape[0] for weight in weights)
    columns = sizes[0] if gate else sum(sizes)
    biases = (None,) * len(weights) if biases is None else tuple(biases)
    biased = sum((bias is not None) << place for place, bias in enumerate(biases))
    tiling = kernel_tiling(x.device, x.dtype, rows, k, sizes, gate) if tiling is None else tiling
    options = norm is not None, residual is not None
    launch = tiling_launch(tiling, x.device.type == "cuda", x.dtype, rows, k, sizes, gate, biased, *options)

    scratch = Scratch() if scratch is None else scratch
    x = x.contiguous()
    out = torch.empty(rows, columns, dtype=x.dtype, device=x.device) if out is None else out
    split, shape = launch.splits > 1, ((2 if gate else 1) * launch.splits, columns, launch.block_r)
    part = scratch.empty("skinny_part", shape, x.device) if split else x
    done = scratch.zeros("skinny_done", (launch.tiles,), x.device) if split else x
    weight, bias = (_three(each, x) for each in (weights, biases))
    ends = (x if residual is None else residual, out, part, done)
    with torch.cuda.device_of(x):
        if not tiling.tensor:
            factor, eps = (x, 0.0) if norm is None else norm
            one_row[launch.grid](x, *weight, *bias, factor, *ends, eps, **launch.keywords)
            return out
        if norm is not None:
            x = rms_norm_triton(x, *norm)
        some_rows[launch.grid](x, *weight, *bias, *ends, rows, **launch.keywords)
    return out


@lru_cache(maxsize=1024)
def tiling_launch(
    tiling: Tiling,
    cuda: bool,
    dtype: torch.dtype,
    rows: int,
    k: int,
    sizes: tuple[int, ...],
    gate: bool,
    biased: int,
    has_norm: bool,
    has_residual: bool,
) -> Launch:
    """What a tiling comes to for [rows, k] by weights of `sizes` rows. Raises ValueError for one that cannot be."""
    if not tiling.tensor and rows != 1:
        raise ValueError(f"{rows} rows: expected 1 without tensor cores")
    n = (*sizes, 0, 0)[:3]
    tiles = triton.cdiv(n[0], tiling.block_n) if gate else sum(triton.cdiv(size, tiling.block_n) for size in sizes)
    turns = triton.cdiv(k, tiling.block_k)
    chunk = triton.cdiv(turns, tiling.splits) * tiling.block_k
    splits = triton.cdiv(k, chunk)  # none without columns
    block_r = max(_LEAST_BLOCK, triton.next_power_of_2(rows)) if tiling.tensor else 1
    keywords = {
        **{"k": k, "n_0": n[0], "n_1": n[1], "n_2": n[2], "count": len(sizes), "biased": biased, "gate": gate},
        **{"has_residual": has_residual, "block_n": tiling.block_n, "block_k": tiling.block_k, "splits": splits},
        **{"depth": tiling.depth, "chunk": chunk, "num_warps": tiling.warps},
    }
    if tiling.tensor:
        keywords |= {"block_r": block_r, "swap": tiling.swap, "upcast": not cuda}
    else:
        keywords |= {"has_norm": has_norm, "norm_block": min(1024, triton.next_power_of_2(k))}
    return Launch(block_r, tiles, splits, (tiles, splits), keywords)


def kernel_of(tiling: Tiling) -> triton.JITFunction:
    """The kernel a tiling is for."""
    return some_rows if tiling.tensor else one_row


def _three(given: Sequence[Tensor | None], blank: Tensor) -> tuple[Tensor, ...]:
    """Three tensors, as the kernels take them: a blank where there is none, which nothing reads."""
    return tuple(blank if each is None else each for each in (*given, None, None)[:3])


@lru_cache(maxsize=1024)
def chosen_tiling(
    device: torch.device, dtype: torch.dtype, rows: int, k: int, sizes: tuple[int, ...], gate: bool
) -> Tiling | None:
    """Tiling for [rows, k] by weights of `sizes` rows, or None where one product of cuBLAS is faster."""
    if rows > FEW_ROWS and len(sizes) == 1:
        return None
    return kernel_tiling(device, dtype, rows, k, sizes, gate)


def kernel_tiling(
    device: torch.device, dtype: torch.dtype, rows: int, k: int, sizes: tuple[int, ...], gate: bool
) -> Tiling:
    """Tiling for [rows, k] by weights of `sizes` rows by the kernels, whatever else there is.

    Numbers are the fastest measured on an H200; the pipeline is as deep as the device's shared memory allows.
    """
    tiling = _fastest(device, dtype, rows, k, sizes, gate)
    block_r = max(_LEAST_BLOCK, triton.next_power_of_2(rows)) if tiling.tensor else 1
    turn = ((2 if gate else 1) * tiling.block_n + block_r) * tiling.block_k * dtype.itemsize  # bytes that a turn reads
    return tiling._replace(depth=min(tiling.depth, 1 + shared_memory(device) // turn))


def _fastest(device: torch.device, dtype: torch.dtype, rows: int, k: int, sizes: tuple[int, ...], gate: bool) -> Tiling:
    outputs = sizes[0] if gate else sum(sizes)
    share = outputs / processors(device)  # output columns a multiprocessor
    if rows == 1:
        return _tiling_of_one_row(dtype, k, share)
    if dtype == torch.float32:  # without tensor cores: a larger block spills registers
        return Tiling(32, 32, splits=max(1, min(4, int(2 * 32 / share))), depth=2)
    if share >= _MANY:
        return Tiling(128, 128, swap=False) if rows <= FEW_ROWS else Tiling(128, 64, swap=False)
    if rows > FEW_ROWS:
        splits = _splits(64, share, k // (2 * 64), 2 if gate else 1.5)
        return Tiling(64, 64) if splits == 1 else Tiling(64, 64, splits, depth=3 if gate else 6, swap=False)
    if share >= _SOME:
        return Tiling(64, 128, depth=4)
    if k >= _LONG:
        return Tiling(32, 256, _splits(32, share, k // (2 * 256)))
    block_n = 32 if share >= 12 else 16
    return Tiling(block_n, 128, _splits(block_n, share, k // (2 * 128)), depth=4)


def _tiling_of_one_row(dtype: torch.dtype, k: int, share: float) -> Tiling:
    """At least three programs a multiprocessor, and more where a program is long."""
    if share >= _MANY and k >= 2048 and dtype.itemsize == 2:
        return Tiling(4, 2048, warps=8, depth=1, tensor=False)
    block_n = 8 if share >= 24 else 4 if share >= 12 else 2
    if k >= _LONG:
        block_n = min(block_n, 4)
    return Tiling(block_n, 1024 // dtype.itemsize, depth=4, tensor=False)


def _splits(block_n: int, share: float, most: int, programs: float = 2) -> int:
    """Parts that make so many programs a multiprocessor."""
    return max(1, min(round(programs * block_n / share), most, 8))
