"""Views of a scene in a training row: which ticks, and how many tokens per frame; the mix makes a model robust.

Single images, a few images, clips of 12 to 64 frames, even and uneven frame rates, repeated frames, several token
grids.
A run begins with mostly single images, where words and pictures meet cheaply, and goes over to videos.
Every view shows whole frames with all their tokens; nothing is ever compressed, dropped or merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dycoke.nano.generator import TICKS
from dycoke.nano.generator.schedule import EVENT_GAP

NATIVE = 32
"""Frames of a clip as evaluation samples it."""

IMAGE_GRID = 8
CLIP_GRID = 4

_KINDS = {"native": 0.42, "even": 0.24, "uneven": 0.1, "repeated": 0.08, "subset": 0.1, "few": 0.02, "image": 0.04}
_EARLY = {"native": 0.2, "even": 0.15, "uneven": 0.05, "repeated": 0.0, "subset": 0.05, "few": 0.05, "image": 0.5}
_EARLY_SHARE = 0.1
_GRIDS = {CLIP_GRID: 0.72, 3: 0.08, 5: 0.12, 6: 0.08}
_FINE_IMAGES = 0.4  # the others have a clip's tokens, so that what is learnt on them serves clips
_FEW = 4
_MAX_TOKENS = 1200


@dataclass(frozen=True, slots=True)
class View:
    """ticks int64 [B, F] in [0, TICKS); grid: rows of tokens per frame; places [F] int64 or None: the frame number each
    frame's position ids count from, where they keep the gaps of frames left out."""

    kind: str
    ticks: Tensor
    grid: int
    places: Tensor | None = None

    @property
    def visual_tokens(self) -> int:
        return self.ticks.shape[1] * self.grid**2


def _choose(weights: dict, generator: torch.Generator):
    names = list(weights)
    drawn = torch.multinomial(torch.tensor(list(weights.values()), dtype=torch.float64), 1, generator=generator)
    return names[int(drawn)]


def _count(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def even_ticks(frames: int) -> Tensor:
    """Ticks of `frames` frames at equal distances from the first to the last, as readers sample, int64 [frames]."""
    return (torch.arange(frames) * (TICKS - 1)).div(max(1, frames - 1), rounding_mode="floor")


def _shifted(ticks: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """The same for each row, a tick earlier or later in some: [rows, F]."""
    return (ticks + torch.randint(-1, 2, (rows, 1), generator=generator)).clamp(0, TICKS - 1)


def _uneven(rows: int, frames: int, generator: torch.Generator) -> Tensor:
    """One frame at a random moment of each of `frames` equal spans."""
    moments = torch.arange(frames) + torch.rand(rows, frames, generator=generator)
    return (moments * (TICKS / frames)).long().clamp(max=TICKS - 1)


def _subset(low: int, generator: torch.Generator) -> Tensor:
    """At least `low` of the native frame numbers, ascending, the last one among them, int64 [F]."""
    frames = _count(low, NATIVE - 1, generator)
    picked = torch.randperm(NATIVE - 1, generator=generator)[: frames - 1]
    return torch.cat([picked.sort().values, torch.tensor([NATIVE - 1])])


def _kinds(progress: float) -> dict[str, float]:
    """Shares of the kinds of view at a point of the run, from _EARLY to _KINDS in a straight line."""
    late = min(1.0, progress / _EARLY_SHARE)
    return {kind: (1 - late) * _EARLY[kind] + late * share for kind, share in _KINDS.items()}


def draw_view(rows: int, generator: torch.Generator, progress: float = 1.0) -> View:
    """A view for `rows` scenes, all with the same number of frames; `progress` is the share of the run done."""
    kind = _choose(_kinds(progress), generator)
    if kind == "image":
        grid = IMAGE_GRID if torch.rand(1, generator=generator) < _FINE_IMAGES else CLIP_GRID
        return View(kind, torch.randint(0, TICKS, (rows, 1), generator=generator), grid)
    grid = _choose(_GRIDS, generator)
    if kind == "few":
        frames = _count(2, 2 * _FEW, generator)
        return View(kind, _shifted(even_ticks(frames), rows, generator), IMAGE_GRID if frames <= _FEW else grid)
    most = min(TICKS, _MAX_TOKENS // grid**2)
    native = _shifted(even_ticks(NATIVE), rows, generator)
    if kind == "native":
        return View(kind, native, grid)
    if kind == "even":
        return View(kind, _shifted(even_ticks(_count(12, most, generator)), rows, generator), grid)
    if kind == "uneven":
        return View(kind, _uneven(rows, _count(16, most, generator), generator), grid)
    if kind == "repeated":
        repeats = torch.randint(0, NATIVE, (min(most - NATIVE, NATIVE // 2),), generator=generator)
        order = torch.cat([torch.arange(NATIVE), repeats]).sort().values
        return View(kind, native[:, order], grid)
    places = _subset(22, generator)
    keep_gaps = bool(torch.rand(1, generator=generator) < 0.5)
    return View(kind, native[:, places], grid, places if keep_gaps else None)


def native_view(rows: int) -> View:
    """View that evaluation uses: NATIVE frames, the token grid of the shipped configuration."""
    return View("native", even_ticks(NATIVE).expand(rows, NATIVE).contiguous(), CLIP_GRID)


def spacing(ticks: Tensor) -> list[int]:
    """The longest stretch of each row without a frame, ticks; ticks [B, F] ascending.

    Whatever lasts that long or longer is in a frame for certain. What begins in the last ticks lasts to the end, for
    EVENT_GAP or more, so a stretch there counts only if it is longer.
    """
    before = torch.full_like(ticks[:, :1], -1)
    after = torch.full_like(ticks[:, :1], TICKS)
    begin = torch.cat([before, ticks], 1)
    stretch = torch.cat([ticks, after], 1) - begin
    harmless = (begin >= TICKS - EVENT_GAP - 1) & (stretch <= EVENT_GAP)
    return stretch.masked_fill(harmless, 1).amax(1).tolist()
