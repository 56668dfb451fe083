"""Targets of the auxiliary heads: facts of patches, of objects as they were seen so far, and of frames.

They are there in training only, and only to make it short: the tower learns what a patch shows, the language model
what has happened to it until then, from every token of a video instead of a few answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dycoke.nano.generator import Frames, Scene
from dycoke.nano.generator.render import BOX, FRAME, NONE, centres
from dycoke.nano.generator.scene import COLORS, COLUMNS, OBJECTS, ROWS, SHAPES, STILL, UNIT
from dycoke.nano.generator.schedule import TICKS

IGNORE = -100
_BIN = 4 * UNIT  # of a coordinate
_BINS = FRAME * UNIT // _BIN
_ROW_BORDER = FRAME // 2 * UNIT

PATCH = {"color": len(COLORS) + 1, "shape": BOX + 1, "x": _BINS, "y": _BINS}
MEMORY = {
    "first_color": len(COLORS),
    "hidden": len(SHAPES),
    "start": len(COLUMNS) * len(ROWS),
    "ordinal": OBJECTS,
    "motion": 2 * STILL + 1,
}
SIGN = {"digit": NONE + 1, "letter": NONE + 1, "lamp": 2}
TALLY = {"flashes": 7, "movers": OBJECTS + 1, "objects": OBJECTS + 1}
"""Classes of each head."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Classes, int64, IGNORE where there is nothing to say.

    patch: by head [B, F, P, P]; owner: [B, F, P, P], the object of a patch plus one, 0 for none; memory: by head, of
    each object at each frame, [B, F, OBJECTS]; sign, tally: by head [B, F].
    """

    patch: dict[str, Tensor]
    owner: Tensor
    memory: dict[str, Tensor]
    sign: dict[str, Tensor]
    tally: dict[str, Tensor]


def targets(scene: Scene, ticks: Tensor, frames: Frames) -> Targets:
    """The targets of frames drawn at `ticks` [B, F]."""
    now = ticks[..., None]
    seen, boxed = frames.owner, frames.owner > OBJECTS
    owner = torch.where(boxed, seen - OBJECTS, seen)
    color = torch.where(now >= scene.change[:, None], scene.turned[:, None], scene.color[:, None])
    shape = scene.shape[:, None].expand_as(color)
    x, y = centres(scene, ticks)
    patch = {
        "color": _of_owner(color + 1, owner, 0).masked_fill(boxed, 0),
        "shape": _of_owner(shape + 1, owner, 0).masked_fill(boxed, BOX),
        "x": _of_owner((x // _BIN).clamp(0, _BINS - 1), owner, IGNORE),
        "y": _of_owner((y // _BIN).clamp(0, _BINS - 1), owner, IGNORE),
    }
    sign = {"digit": frames.digit, "letter": frames.letter, "lamp": frames.lamp}
    return Targets(patch, owner, _memory(scene, now), sign, _tally(scene, now))


def _of_owner(values: Tensor, owner: Tensor, none: int) -> Tensor:
    """Values of objects [B, F, OBJECTS] at the patches they own, [B, F, P, P]."""
    table = torch.cat([torch.full_like(values[..., :1], none), values], -1)
    return table.gather(-1, owner.flatten(2)).view_as(owner)


def _under_way(scene: Scene, now: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each object is in motion, and whether it is done with it, bool [B, F, OBJECTS]."""
    begun, done = now >= scene.begin[:, None], now >= (scene.begin + scene.pace)[:, None]
    return begun & ~done, done & (scene.begin < TICKS)[:, None]


def _memory(scene: Scene, now: Tensor) -> dict[str, Tensor]:
    moving, moved = _under_way(scene, now)
    direction = (scene.direction + STILL * scene.fast.long())[:, None]
    motion = torch.where(moved, direction + 1, 0)
    cell = scene.column * len(ROWS) + (scene.y[..., 0] > _ROW_BORDER)
    ordinal = scene.appear.argsort(dim=1, stable=True).argsort(dim=1)
    whole = {"first_color": scene.color, "hidden": scene.shape, "start": cell, "ordinal": ordinal}
    known = {name: value[:, None].expand_as(motion) for name, value in whole.items()}
    return known | {"motion": motion.masked_fill(moving, IGNORE)}


def _tally(scene: Scene, now: Tensor) -> dict[str, Tensor]:
    moving, moved = _under_way(scene, now)
    there = torch.arange(OBJECTS, device=now.device) < scene.count[:, None]
    return {
        "flashes": (now >= scene.flash_on[:, None]).sum(-1),
        "movers": moved.sum(-1).masked_fill(moving.any(-1), IGNORE),
        "objects": ((now >= scene.appear[:, None]) & there[:, None]).sum(-1),
    }
