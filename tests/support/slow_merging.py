"""Clustering and segments once more, as slow and obvious as they are described: loops, float64, one token at a time."""

import math

import numpy as np


def cosine(a, b) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def dpc(points, count: int, neighbours: int) -> tuple[list[int], dict[int, list[int]]]:
    """Centres of `points` in the order of their scores, and the members of each: itself and those it is nearest to."""
    size, dim = len(points), len(points[0]) if len(points) else 0
    apart = [[math.dist(a, b) / math.sqrt(dim) for b in points] for a in points]
    density = [math.exp(-np.mean([d * d for d in sorted(row)[:neighbours]])) for row in apart]
    widest = max((d for row in apart for d in row), default=0)
    scores = []
    for i in range(size):
        denser = [j for j in range(size) if (density[j], -j) > (density[i], -i)]
        scores.append(density[i] * min((apart[i][j] for j in denser), default=widest))
    centres = sorted(range(size), key=lambda i: (-scores[i], i))[:count]
    members = {c: [c] for c in centres}
    for i in range(size):
        if i not in members:
            members[min(centres, key=lambda c: (apart[i][c], c))].append(i)
    return centres, members


def cut(similarity: list[float], threshold: float, segments: int) -> list[list[int]]:
    """Frames of each segment: cuts below the threshold, then at the smallest of the others until there are enough."""
    cuts = {i for i, s in enumerate(similarity) if s < threshold}
    for i in sorted(range(len(similarity)), key=lambda i: (similarity[i], i)):
        if len(cuts) < segments - 1:
            cuts.add(i)
    found = [[0]]
    for t in range(1, len(similarity) + 1):
        if t - 1 in cuts:
            found.append([])
        found[-1].append(t)
    return found
