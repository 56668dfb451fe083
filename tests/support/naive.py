"""Temporal merging once more, as slow and obvious as the paper states it: loops, float64, one token at a time."""

import math

from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a @ b) / max(math.sqrt(float(a @ a) * float(b @ b)), 1e-12))


def similarities(x: Tensor) -> list[list[float]]:
    """Per compared frame, in frame order, the similarity of each token with its reference."""
    rows = []
    for t in range(len(x)):
        if t % 4:
            reference = x[t - t % 4] if t % 4 < 3 else x[t - 1]
            rows.append([cosine(a, b) for a, b in zip(x[t], reference, strict=True)])
    return rows


def merge(x: Tensor, keep: int) -> list[int]:
    """Slots kept of frames [T, N, D]."""
    per_frame, rows, kept = x.shape[1], iter(similarities(x)), []
    for t in range(len(x)):
        if t % 4 == 0:
            chosen = list(range(per_frame))
        else:
            row = next(rows)
            chosen = sorted(sorted(range(per_frame), key=lambda n: (row[n], n))[:keep])
        kept += [t * per_frame + n for n in chosen]
    return kept
