"""Where a video is cut into segments of frames.

What depends on frames and tokens is worked out on the device; what is sequential in frames alone (a dynamic programme,
the repair of labels) runs on the host, on plain integers that the caller fetches in one transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

Span = tuple[int, int]  # first and last frame of a segment


def step_cosine(frames: Tensor) -> Tensor:
    """Cosine over the last axis of each row with the one a frame earlier: [T, ..., D] -> [T - 1, ...] fp32."""
    frames = frames.float()
    return torch.nn.functional.cosine_similarity(frames[1:], frames[:-1], dim=-1)


def find_cuts(similarity: Tensor, threshold: float, segments: int) -> Tensor:
    """Steps [T - 1] bool at which a segment ends: similarity below the threshold, or among the segments - 1 smallest.

    similarity [T - 1] of every frame with the next. There are `segments` segments at least, or as many as frames.
    Cutting below the threshold and then, where these are too few, at the smallest of the rest is the same rule: what
    lies below the threshold is smaller than what does not. Ties go to the earlier step.
    Source: FastVID (DySeg), LunarShen/FastVID@ea8b57e; FlashVID, Fanziyang-v/FlashVID@3efef7e, flashvid/utils.py.
    """
    smallest = similarity.argsort(stable=True)[: segments - 1]
    return (similarity < threshold).index_fill(0, smallest, True)


def segment_ids(cuts: Tensor) -> Tensor:
    """Number of the segment of every frame, from 0: cuts [T - 1] bool -> [T] int64."""
    return torch.cat([cuts.new_zeros(1), cuts]).cumsum(0)


def spans(ids: Sequence[int]) -> list[Span]:
    """First and last frame of every run of equal ids."""
    found: list[Span] = []
    for _, run in groupby(ids):
        first = found[-1][1] + 1 if found else 0
        found.append((first, first + len(list(run)) - 1))
    return found


def membership(segments: Tensor, frames: int) -> Tensor:
    """Which frames belong to each segment, given its first and last: [S, 2] int64 -> [S, T] fp32, 1 where they do."""
    frame = torch.arange(frames, device=segments.device)
    return ((segments[:, :1] <= frame) & (frame <= segments[:, 1:])).float()


def still_steps(still: Tensor) -> Tensor:
    """How many steps from each frame on a position stays still: [T - 1, N] bool -> [T, N] int64, 0 for the last."""
    steps = still.shape[0]
    step = torch.arange(steps + 1, device=still.device)[:, None]
    moves = torch.cat([torch.where(still, steps, step[:-1]), step[-1:].expand(1, still.shape[1])])
    return moves.flip(0).cummin(0).values.flip(0) - step


def still_counts(steps: Tensor) -> Tensor:
    """At [i, L] the positions that stay still for L steps or more from frame i on: `still_steps` [T, N] -> [T, T]."""
    frames = steps.shape[0]
    exactly = steps.new_zeros(frames, frames).scatter_add_(1, steps, torch.ones_like(steps))
    return exactly.flip(1).cumsum(1).flip(1)


def stillest_segments(counts: Sequence[Sequence[int]]) -> tuple[list[Span], int]:
    """The segments that let most tokens go, and how many those are, for `still_counts` as nested lists.

    A segment of L + 1 frames needs each of its still positions once, not L + 1 times. Of segmentations that are as
    good the one with the shorter last segments is taken. Source: cokeshao/HoliTom@b1d1412, holitom/llava_arch.py.
    """
    best, begins = [0], []
    for last in range(len(counts)):  # each step builds on the best of the frames before: a dynamic programme
        gain, first = max((best[i] + counts[i][last - i] * (last - i), i) for i in range(last + 1))
        best.append(gain)
        begins.append(first)
    found, last = [], len(counts) - 1
    while last >= 0:
        found.append((begins[last], last))
        last = begins[last] - 1
    return found[::-1], best[-1]


def static_places(embeds: Tensor, belongs: Tensor, tau: float) -> Tensor:
    """Positions whose tokens have a mean cosine of more than tau with each other in a segment: [S, N] bool.

    embeds [T, N, D] fp32, belongs [S, T] fp32. A segment of one frame has none. The sum over all pairs is the square
    of the summed unit vectors, in which every token also meets itself.
    Source: Visual-AI/PruneVid@8e90af0, models/pllava/modeling_pllava.py.
    """
    lengths = belongs.sum(1, keepdim=True)
    summed = belongs @ torch.nn.functional.normalize(embeds, dim=2).reshape(len(embeds), -1)
    pairs = summed.view(-1, *embeds.shape[1:]).square().sum(2) - lengths
    return (pairs > tau * lengths * (lengths - 1)) & (lengths > 1)


def contiguous(labels: Sequence[int]) -> list[Span]:
    """Segments of frames from the cluster label of each, which may jump to and fro.

    A label keeps its longest run (all of them if several are as long), if that has two frames or more. The frames
    between kept runs join the longer of the segments beside them, the left one if they are as long; if no run is kept
    the video is one segment. Source: Visual-AI/PruneVid@8e90af0, models/pllava/modeling_pllava.py.
    """
    runs = [(labels[first], first, last - first + 1) for first, last in spans(labels)]
    longest: dict[int, int] = {}
    for label, _, length in runs:
        longest[label] = max(length, longest.get(label, 0))
    kept = [label if 1 < length == longest[label] else None for label, _, length in runs for _ in range(length)]
    filled: list[int | None] = []
    for label, run in groupby(kept):  # what is filled counts for the stretch after it: a loop over runs, not frames
        length = len(list(run))
        if label is None:
            rest = kept[len(filled) + length :]
            left, right = (_leading(side) for side in (filled[::-1], rest))
            label = (filled[-1] if left >= right else rest[0]) if left or right else 0
        filled += [label] * length
    return spans(filled)


def _leading(labels: Sequence[int | None]) -> int:
    """Length of the run of equal labels that comes first."""
    return len(list(next(groupby(labels), (None, ()))[1]))
