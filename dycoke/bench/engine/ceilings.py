"""Ceilings of the machine, measured in the same run: bytes per second of a stream, operations of a matmul."""

from __future__ import annotations

from typing import Any

import torch

from dycoke.bench.timing import Step, Times, stream_step, time_eager, time_on_host

STREAM_BYTES = {"cuda": 2**31, "cpu": 2**22}
MATMUL = {"cuda": 8192, "cpu": 256}  # rows and columns of the matrices
REPEAT = {"cuda": 30, "cpu": 5}


def measure_ceilings(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """GB/s of reading and writing a large tensor, TFLOP/s of a square matmul in a dtype, with what they were taken of.

    Raises RuntimeError if a step did not write what it was timed for.
    """
    nbytes, size = STREAM_BYTES[device], MATMUL[device]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.full_like(left, torch.nan)
    stream = _timed(stream_step(nbytes, device), device)
    matmul = _timed(lambda: torch.mm(left, right, out=product), device)
    if not bool(product.isfinite().all()):
        raise RuntimeError("the matmul of the ceiling was not written")
    return {
        "gb_per_s": 2 * nbytes / stream.median_ms / 1e6,
        "tflop_per_s": 2 * size**3 / matmul.median_ms / 1e9,
        "stream": {"bytes_read": nbytes, "median_ms": stream.median_ms, "iqr_ms": stream.iqr_ms},
        "matmul": {"size": size, "dtype": str(dtype), "median_ms": matmul.median_ms, "iqr_ms": matmul.iqr_ms},
    }


def _timed(step: Step, device: str) -> Times:
    return (time_on_host if device == "cpu" else time_eager)(step, REPEAT[device])
