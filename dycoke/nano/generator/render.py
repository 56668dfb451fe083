"""Drawing scenes: frames at any moment and size, with the dense annotation of every patch, on the scenes' device.

Coordinates are those of a 64 px frame whatever the size drawn; edges are anti-aliased over one drawn pixel, so a large
drawing scaled down looks like a small one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dycoke.nano.generator.randomness import noise, uniform
from dycoke.nano.generator.scene import FRAMES, OBJECTS, Scene

SIDE = 64
PATCH = 8
NO_DIGIT = 10
TRAVEL = 16.0
NOISE = 0.05

_RGB = (
    (230, 40, 40),
    (40, 200, 60),
    (50, 80, 230),
    (230, 220, 50),
    (230, 60, 220),
    (60, 220, 220),
    (240, 240, 240),
    (240, 140, 30),
)
# five rows of three cells a digit
_GLYPHS = (
    "111101101101111",
    "010110010010111",
    "111001111100111",
    "111001111001111",
    "101101111001001",
    "111100111001111",
    "111100111101111",
    "111001001001001",
    "111101111101111",
    "111101111001111",
)
_CELL, _GLYPH_TOP = 2, 2
# far enough apart that no object hides another, whichever way they move
_SLOTS = ((14.0, 32.0), (32.0, 48.0), (50.0, 32.0))
_STEP = ((-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (0.0, 0.0))  # as scene.DIRECTIONS
_COVERED = 0.15  # share of a patch an object must cover to be its annotation


@dataclass(frozen=True, slots=True)
class Frames:
    """pixels [B, F, 3, S, S] float in [0, 1]; color, shape [B, F, 8, 8] int64, 0 = none, else table index + 1;
    digit [B, F] int64, NO_DIGIT where none is shown."""

    pixels: Tensor
    color: Tensor
    shape: Tensor
    digit: Tensor


def _centres(scene: Scene, k: int, times: Tensor) -> tuple[Tensor, Tensor]:
    """Centre of object k at each moment: x, y [B, F] px. It passes its slot halfway through its stay."""
    device = times.device
    appear = scene.appear[:, k, None].float()
    travelled = ((times - appear).clamp(min=0) / (FRAMES - appear) - 0.5) * TRAVEL
    step = torch.tensor(_STEP, device=device)[scene.direction[:, k]]
    slot = torch.tensor(_SLOTS, device=device)[scene.slot[:, k]]
    return slot[:, :1] + step[:, :1] * travelled, slot[:, 1:] + step[:, 1:] * travelled


def _outside(shape: Tensor, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """How far a point is outside the outline, px, negative inside, [B, F, S, S].

    shape, radius [B]; dx [B, F, 1, S], dy [B, F, S, 1] from the centre, px.
    """
    r = radius[:, None, None, None]
    box = torch.maximum(dx.abs(), dy.abs())
    bar, arm = 0.35 * r, r
    outlines = (
        (dx.square() + dy.square()).sqrt() - r,
        box - 0.9 * r,
        torch.maximum(torch.maximum(dy - 0.9 * r, -r - dy), (dx.abs() - (dy + r) * 0.55) * 0.876),
        torch.minimum(torch.maximum(dx.abs() - bar, dy.abs() - arm), torch.maximum(dy.abs() - bar, dx.abs() - arm)),
    )
    choice = shape[:, None, None, None]
    return torch.stack([o.expand_as(box) for o in outlines]).gather(0, choice.expand_as(box)[None])[0]


def _background(scene: Scene, times: Tensor, side: int) -> Tensor:
    """Dim coloured clouds with finer grey clutter, drifting slowly in a third of the scenes: [B, F, 3, S, S]."""
    batch, frames = times.shape
    clouds = F.interpolate(uniform(scene.seed, 40, 3, 8, 8) * 0.45, size=(side, side), mode="bilinear")
    clutter = F.interpolate(uniform(scene.seed, 41, 1, 20, 20) * 0.16 - 0.08, size=(side, side), mode="bilinear")
    picture = (clouds + clutter).clamp(min=0)
    drifts = uniform(scene.seed, 42) < 1 / 3
    speed = torch.where(drifts, uniform(scene.seed, 43) * 1.6 - 0.8, 0.0)  # px a unit of time
    ahead = torch.arange(side, device=times.device) + (speed[:, None] * times * (side / SIDE)).long()[..., None]
    span = 2 * side
    column = ahead % span  # mirrored at the edges, so that the picture has no seam
    column = torch.where(column < side, column, span - 1 - column)  # [B, F, S]
    wide = picture[:, None].expand(batch, frames, 3, side, side)
    return wide.gather(-1, column[:, :, None, None].expand(batch, frames, 3, side, side))


def _digit_index(scene: Scene, times: Tensor) -> Tensor:
    """The digit shown at each moment, [B, F]."""
    position = (times[..., None] >= scene.digit_start[:, None]).sum(-1) - 1
    return scene.digits.gather(1, position.clamp(min=0))


def _glyphs(scene: Scene, digit: Tensor, side: int) -> Tensor:
    """Mask of the digit's strokes, bool [B, F, S, S]."""
    device = digit.device
    font = torch.tensor([[float(c) for c in g] for g in _GLYPHS], device=device).view(-1, 5, 3)
    grid = torch.arange(side, device=device) * SIDE // side
    row = torch.div(grid - _GLYPH_TOP, _CELL, rounding_mode="floor")
    column = torch.div(grid - scene.digit_column[:, None], _CELL, rounding_mode="floor")  # [B, S]
    inside = ((row >= 0) & (row < 5))[None, :, None] & ((column >= 0) & (column < 3))[:, None, :]
    cell = row.clamp(0, 4)[None, :, None] * 3 + column.clamp(0, 2)[:, None, :]  # [B, S, S]
    strokes = font.flatten(1)[digit]  # [B, F, 15]
    drawn = strokes.gather(2, cell.flatten(1)[:, None].expand(-1, digit.shape[1], -1)) > 0
    return drawn.view(*digit.shape, side, side) & inside[:, None]


def render(scene: Scene, times: Tensor, side: int = SIDE, *, grain: bool = True) -> Frames:
    """Draw the scenes at `times` [B, F] float in [0, FRAMES), `side` px a multiple of 64 on the scenes' device.

    grain: with the noise that belongs to the seed. Raises ValueError if a shape, a moment or the side is out of range.
    """
    if times.ndim != 2 or times.shape[0] != len(scene):
        raise ValueError(f"times: expected [{len(scene)}, frames], got {tuple(times.shape)}")
    if side < SIDE or side % SIDE:
        raise ValueError(f"side={side}: expected a multiple of {SIDE}")
    device = times.device
    scale = side / SIDE
    pixel = (torch.arange(side, device=device) + 0.5) / scale - 0.5
    picture = _background(scene, times, side)
    palette = torch.tensor(_RGB, device=device) / 255
    grid = side // PATCH
    color = torch.zeros(*times.shape, PATCH, PATCH, dtype=torch.int64, device=device)
    shape = color.clone()
    for k in range(OBJECTS):
        x, y = _centres(scene, k, times)
        outside = _outside(
            scene.shape[:, k],
            pixel - x[..., None, None],
            pixel[:, None] - y[..., None, None],
            scene.radius[:, k],
        )
        shown = (times >= scene.appear[:, k, None]) & (k < scene.count)[:, None]
        cover = (0.5 - outside * scale).clamp(0, 1) * shown[..., None, None]
        changed = times >= scene.change[:, k, None]
        index = torch.where(changed, scene.last_color[:, k, None], scene.first_color[:, k, None])
        picture = torch.lerp(picture, palette[index][..., None, None], cover[:, :, None])
        covered = F.avg_pool2d(cover.flatten(0, 1)[:, None], grid)[:, 0].view_as(color) > _COVERED
        color = torch.where(covered, index[..., None, None] + 1, color)
        shape = torch.where(covered, scene.shape[:, k, None, None, None] + 1, shape)
    digit = _digit_index(scene, times)
    picture = torch.where(_glyphs(scene, digit, side)[:, :, None], 1.0, picture)
    if grain:
        moments = scene.seed[:, None] + (times * 1024).long() * 0x10001
        picture = (picture + NOISE * noise(moments, 3, side, side)).clamp(0, 1)
    return Frames(picture, color, shape, digit)
