"""Candidate tilings of the linear layers of a decode step, and compiling them ahead, many at a time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import product
from typing import Any

import torch
from triton import cdiv, next_power_of_2

from dycoke.bench.kernels.layers import EPS, Linear
from dycoke.ops.layer.skinny_linear_triton import Tiling, kernel_of, tiling_launch

_SHARED = 225 * 1024  # bytes of shared memory of a multiprocessor that one program may have
_MOST_WORKERS = 32

Job = tuple[Tiling, torch.dtype, int, int, tuple[int, ...], bool, int, bool, bool]


def candidates(linear: Linear, rows: int, dtype: torch.dtype, processors: int) -> list[Tiling]:
    """Plans worth timing, every one once."""
    found = dict.fromkeys(_without_tensor_cores(linear, processors)) if rows == 1 else {}
    found |= dict.fromkeys(_on_tensor_cores(linear, rows, processors))
    return [tiling for tiling in found if _fits(tiling, linear, rows, dtype)]


def _without_tensor_cores(linear: Linear, processors: int) -> Iterator[Tiling]:
    outputs = linear.columns
    shapes = ((512, 2), (512, 4), (1024, 4), (2048, 8))
    for block_n, (block_k, warps), depth in product((2, 4, 8), shapes, (1, 4)):
        yield Tiling(block_n, block_k, warps=warps, depth=depth, tensor=False)
    for block_n, (block_k, warps), splits, depth in product((4, 8), shapes[:3], (2, 4), (1, 4)):
        if cdiv(outputs, block_n) * splits <= 24 * processors and linear.width >= 2 * splits * block_k:
            yield Tiling(block_n, block_k, splits, warps, depth, tensor=False)


def _on_tensor_cores(linear: Linear, rows: int, processors: int) -> Iterator[Tiling]:
    shapes = ((64, 5), (128, 3), (128, 4), (256, 3)) if rows <= 16 else ((32, 6), (64, 3), (64, 5), (128, 3))
    few = rows == 1
    for block_n, (block_k, depth) in product((32, 64, 128), shapes[1:3] if few else shapes):
        for splits in _splits(linear, block_n, block_k, processors):
            yield Tiling(block_n, block_k, splits, depth=depth)
            if few:
                continue
            if block_n == 128 and depth < 5:
                yield Tiling(block_n, block_k, splits, warps=8, depth=depth)
            if block_n > 32 and depth == 3:
                yield Tiling(block_n, block_k, splits, depth=depth, swap=False)


def _splits(linear: Linear, block_n: int, block_k: int, processors: int) -> Iterable[int]:
    """Parts that make about two or four programs a multiprocessor, or a large one, none of them a few turns long."""
    tiles, most = cdiv(linear.columns, block_n), max(1, linear.width // (4 * block_k))
    return sorted(
        {min(most, max(1, round(each * processors / tiles))) for each in ((1, 2, 4) if block_n == 128 else (2, 4))}
    )


def _fits(tiling: Tiling, linear: Linear, rows: int, dtype: torch.dtype) -> bool:
    block_r = max(16, next_power_of_2(rows)) if tiling.tensor else 1
    read = tiling.block_n * (2 if linear.gate else 1) + block_r
    return tiling.depth == 1 or read * tiling.block_k * dtype.itemsize * tiling.depth <= _SHARED


def job(tiling: Tiling, linear: Linear, rows: int, dtype: torch.dtype) -> Job:
    """What `compile_ahead` compiles for a linear."""
    biased = (1 << len(linear.biases)) - 1 if linear.biases else 0
    return (tiling, dtype, rows, linear.width, linear.sizes, linear.gate, biased, linear.has_norm, linear.has_residual)


def compile_ahead(jobs: Iterable[Job]) -> tuple[ProcessPoolExecutor, dict[Job, Future[Any]]]:
    """Have other processes fill Triton's cache on the disk, in the order of the jobs."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit the GPU, which it cannot use
    pool = ProcessPoolExecutor(min(_MOST_WORKERS, os.cpu_count() or 1), mp_context=context)
    return pool, {each: pool.submit(compile_one, each) for each in jobs}


def compile_one(each: Job) -> None:
    """Compile one tiling's kernel, without tensors and without running it."""
    tiling, dtype, rows = each[:3]
    launch = tiling_launch(tiling, True, *each[1:])
    partial, counter = (torch.float32, torch.int32) if launch.splits > 1 else (dtype, dtype)
    last = [rows] if tiling.tensor else [EPS]
    before = [dtype] * (9 if tiling.tensor else 10)  # x, three weights, three biases, the norm, residual and out
    kernel_of(tiling).warmup(*before, partial, counter, *last, grid=launch.grid, **launch.keywords)
