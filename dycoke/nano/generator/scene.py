"""What happens in a video: a batch of scenes, drawn from integer seeds, as tensors that drawing and questions read.

A scene lasts FRAMES time units (one drawn frame each at the native rate). One to three objects of different shapes
appear one after another and stay; each may move and may change colour once; digits are shown one after another in the
upper part. Events keep a distance, so that an answer does not depend on how densely the video is sampled:
a digit and a colour last SHORTEST units or more, appearances are 5 or more apart, any two events EVENT_GAP or more.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dycoke.nano.generator.randomness import integers, permutation, uniform

FRAMES = 32
OBJECTS = 3
DIGITS = 6
SHORTEST = 4
EVENT_GAP = 3

COLORS = ("red", "green", "blue", "yellow", "magenta", "cyan", "white", "orange")
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = ("left", "right", "up", "down", "still")

_LAST_CHANGE = FRAMES - SHORTEST
_CANDIDATES = 16
_CHANGE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Scene:
    """B scenes of K = OBJECTS objects each, of which the first `count` are shown; times in units, int64 but for two.

    seed, count [B]; shape, first_color, last_color, direction [B, K] index the tables above; changes [B, K] bool;
    appear, change [B, K] (change is FRAMES where the colour stays); slot [B, K], where an object stands;
    radius [B, K] float px; digit_count [B]; digits [B, DIGITS]; digit_start [B, DIGITS], FRAMES where unused;
    digit_column [B] px of the digits' left edge.
    """

    seed: Tensor
    count: Tensor
    shape: Tensor
    first_color: Tensor
    last_color: Tensor
    direction: Tensor
    changes: Tensor
    appear: Tensor
    change: Tensor
    slot: Tensor
    radius: Tensor
    digit_count: Tensor
    digits: Tensor
    digit_start: Tensor
    digit_column: Tensor

    def __len__(self) -> int:
        return self.seed.shape[0]

    def to(self, device: torch.device | str) -> Scene:
        return Scene(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


def _change_times(seeds: Tensor, appear: Tensor, wanted: Tensor) -> Tensor:
    """When each object changes colour, [B, K]; FRAMES where it does not, or where no candidate keeps its distance."""
    drawn = uniform(seeds, 20, OBJECTS, _CANDIDATES)
    earliest = appear + SHORTEST
    candidates = earliest[..., None] + (drawn * (_LAST_CHANGE + 1 - earliest[..., None])).long()  # [B, K, C]
    taken = appear
    chosen = []
    for k in range(OBJECTS):
        apart = (candidates[:, k, :, None] - taken[:, None, :]).abs().amin(-1) >= EVENT_GAP  # [B, C]
        valid = apart & wanted[:, k, None]
        pick = candidates[:, k].gather(1, valid.int().argmax(1, keepdim=True))[:, 0]
        chosen.append(torch.where(valid.any(1), pick, FRAMES))
        taken = torch.cat([taken, chosen[-1][:, None]], 1)
    return torch.stack(chosen, 1)


def _digit_starts(seeds: Tensor, count: Tensor) -> Tensor:
    """Start of each digit, [B, DIGITS]: SHORTEST units each, what is left over shared out at random."""
    order = torch.arange(DIGITS, device=seeds.device)
    used = order < count[:, None]
    share = torch.where(used, uniform(seeds, 31, DIGITS) + 0.05, 0.0).cumsum(1)
    spare = FRAMES - SHORTEST * count[:, None]
    before = torch.cat([torch.zeros_like(share[:, :1]), share[:, :-1]], 1) / share[:, -1:]
    return torch.where(used, order * SHORTEST + (before * spare).long(), FRAMES)


def sample_scenes(seeds: Tensor) -> Scene:
    """Scenes of int64 seeds [B]; scene i depends on seeds[i] alone. Raises TypeError if seeds are anything else."""
    if seeds.dtype != torch.int64 or seeds.ndim != 1:
        raise TypeError(f"seeds: expected int64 [B], got {seeds.dtype} {tuple(seeds.shape)}")
    colors = permutation(seeds, 1, len(COLORS))
    rank = permutation(seeds, 2, OBJECTS)  # which slot of time an object appears in; objects shown are ranked again
    count = integers(seeds, 3, 1, OBJECTS + 1)
    appear = 9 * rank + integers(seeds, 4, 0, 5, OBJECTS)
    shown = torch.arange(OBJECTS, device=seeds.device) < count[:, None]
    change = _change_times(seeds, appear, shown & (uniform(seeds, 5, OBJECTS) < _CHANGE_SHARE))
    changes = change < FRAMES
    digit_count = integers(seeds, 6, 3, DIGITS + 1)
    # each digit differs from the one before it, or the two would look like one
    steps = integers(seeds, 7, 1, 10, DIGITS)
    steps[:, 0] = integers(seeds, 8, 0, 10)
    first = colors[:, :OBJECTS]
    return Scene(
        seed=seeds,
        count=count,
        shape=permutation(seeds, 9, len(SHAPES))[:, :OBJECTS],
        first_color=first,
        last_color=torch.where(changes, colors[:, OBJECTS : 2 * OBJECTS], first),
        direction=integers(seeds, 10, 0, len(DIRECTIONS), OBJECTS),
        changes=changes,
        appear=appear,
        change=change,
        slot=permutation(seeds, 11, OBJECTS),
        radius=5.5 + 1.5 * uniform(seeds, 12, OBJECTS),
        digit_count=digit_count,
        digits=steps.cumsum(1) % 10,
        digit_start=_digit_starts(seeds, digit_count),
        digit_column=integers(seeds, 13, 2, 54),
    )
