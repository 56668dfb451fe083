"""Which moments of a scene a training row shows, and how many tokens a frame: the mix that makes a model robust.

Single images, a few images, clips of 9 to 48 frames, even and uneven frame rates, repeated frames, several token grids.
A run begins with mostly single images, where words and pictures meet cheaply, and goes over to videos.
Every view shows whole frames with all their tokens; nothing is ever compressed, dropped or merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dycoke.nano.generator.scene import FRAMES, SHORTEST

IMAGE_GRID = 8
CLIP_GRID = 4

_KINDS = {"native": 0.28, "even": 0.2, "uneven": 0.16, "repeated": 0.1, "subset": 0.16, "few": 0.05, "image": 0.05}
_EARLY = {"native": 0.1, "even": 0.2, "uneven": 0.05, "repeated": 0.0, "subset": 0.05, "few": 0.1, "image": 0.5}
_EARLY_SHARE = 0.15
_GRIDS = {CLIP_GRID: 0.6, 3: 0.12, 5: 0.16, 6: 0.12}
_MAX_TOKENS = 1200
_LAST = FRAMES - 1 / 64


@dataclass(frozen=True, slots=True)
class View:
    """times [B, F] float in [0, FRAMES); grid: rows of tokens a frame; places [F] int64 or None: the frame number each
    frame's position ids count from, where they keep the gaps of frames left out."""

    kind: str
    times: Tensor
    grid: int
    places: Tensor | None = None

    @property
    def visual_tokens(self) -> int:
        return self.times.shape[1] * self.grid**2


def _choose(weights: dict, generator: torch.Generator):
    names = list(weights)
    drawn = torch.multinomial(torch.tensor(list(weights.values()), dtype=torch.float64), 1, generator=generator)
    return names[int(drawn)]


def _count(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def _native(rows: int, generator: torch.Generator) -> Tensor:
    """All FRAMES frames, a constant phase for each row."""
    return torch.arange(FRAMES) + torch.rand(rows, 1, generator=generator) * 0.98


def _even(rows: int, frames: int, generator: torch.Generator) -> Tensor:
    """`frames` frames at equal distances from the start of the video to its end."""
    first = torch.rand(rows, 1, generator=generator) * 0.5
    last = _LAST - torch.rand(rows, 1, generator=generator)
    return first + (last - first) * torch.linspace(0, 1, frames)


def _uneven(rows: int, frames: int, generator: torch.Generator) -> Tensor:
    """One frame at a random moment of each of `frames` equal spans."""
    return (torch.arange(frames) + torch.rand(rows, frames, generator=generator)) * (_LAST / frames)


def _subset(low: int, generator: torch.Generator) -> Tensor:
    """At least `low` of the native frame numbers, ascending, the last one among them, int64 [F]."""
    frames = _count(low, FRAMES - 1, generator)
    picked = torch.randperm(FRAMES - 1, generator=generator)[: frames - 1]
    return torch.cat([picked.sort().values, torch.tensor([FRAMES - 1])])


def _kinds(progress: float) -> dict[str, float]:
    """Shares of the kinds of view at a point of the run, from _EARLY to _KINDS in a straight line."""
    late = min(1.0, progress / _EARLY_SHARE)
    return {kind: (1 - late) * _EARLY[kind] + late * share for kind, share in _KINDS.items()}


def draw_view(rows: int, generator: torch.Generator, progress: float = 1.0) -> View:
    """A view for `rows` scenes, all with the same number of frames; `progress` is the share of the run done."""
    kind = _choose(_kinds(progress), generator)
    if kind == "image":
        return View(kind, torch.rand(rows, 1, generator=generator) * _LAST, IMAGE_GRID)
    grid = _choose(_GRIDS, generator)
    if kind == "few":
        frames = _count(2, SHORTEST, generator)
        return View(kind, _even(rows, frames, generator), IMAGE_GRID if frames == 2 else grid)
    most = min(48, _MAX_TOKENS // grid**2)
    if kind == "native":
        return View(kind, _native(rows, generator), grid)
    if kind == "even":
        return View(kind, _even(rows, _count(9, most, generator), generator), grid)
    if kind == "uneven":
        return View(kind, _uneven(rows, _count(16, most, generator), generator), grid)
    if kind == "repeated":
        repeats = torch.randint(0, FRAMES, (most - FRAMES,), generator=generator)
        order = torch.cat([torch.arange(FRAMES), repeats]).sort().values
        return View(kind, _native(rows, generator)[:, order], grid)
    places = _subset(18, generator)
    keep_gaps = bool(torch.rand(1, generator=generator) < 0.5)
    return View(kind, _native(rows, generator)[:, places], grid, places if keep_gaps else None)


def native_view(rows: int) -> View:
    """The view evaluation uses: every frame once, the token grid of the shipped configuration."""
    return View("native", torch.arange(FRAMES).float().expand(rows, FRAMES).contiguous(), CLIP_GRID)


def spacing(times: Tensor) -> list[float]:
    """The longest stretch of each row without a frame, time units; times [B, F] ascending.

    An interval of that length or more, closed at its start, holds a frame for certain.
    """
    edge = torch.full_like(times[:, :1], FRAMES)
    inner = torch.cat([times, edge], 1).diff(dim=1).amax(1)
    # nothing precedes the first frame, so a stretch from 0 must end after it
    return torch.maximum(inner, times[:, 0].nextafter(edge[:, 0])).tolist()
