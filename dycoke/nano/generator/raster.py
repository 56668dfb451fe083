"""Shapes, glyphs and backgrounds as integer arithmetic, so that every device draws the same pixels.

Drawing is on a canvas of SIDE px, two to a pixel of a 64 px frame. Lengths are in units, UNIT to a 64 px frame's pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dycoke.nano.generator.constants import constant
from dycoke.nano.generator.levels import setting
from dycoke.nano.generator.randomness import bits, integers
from dycoke.nano.generator.scene import LETTER_NAMES, SHAPES, UNIT, Scene
from dycoke.nano.generator.schedule import Field

SIDE = 128
PIXEL = UNIT * 64 // SIDE
"""Units in a pixel of the canvas."""

_COARSE, _FINE = 8, 24  # points of the background's lattices
# five rows of three cells
_DIGITS = (
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
_LETTERS = {
    "A": "010101111101101",
    "C": "111100100100111",
    "E": "111100110100111",
    "F": "111100110100100",
    "H": "101101111101101",
    "J": "001001001101111",
    "L": "100100100100111",
    "P": "110101110100100",
    "T": "111010010010010",
    "U": "101101101101111",
}
DIGIT_FONT = _DIGITS
LETTER_FONT = tuple(_LETTERS[name] for name in LETTER_NAMES)
_CELL = 2 * SIDE // 64  # px of the canvas


def middles(device: torch.device) -> Tensor:
    """Centre of each pixel of a line, units, int32 [SIDE]."""
    return torch.arange(SIDE, device=device, dtype=torch.int32) * PIXEL + PIXEL // 2


def inside(shape: Tensor, radius: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Points within an outline, bool [B, F, K, L, L]: those with low(dy) <= dx^2 <= high(dy).

    shape, radius [B, K]; dx [B, F, K, 1, L] and dy [B, F, K, L, 1] from the centre, units, int32.
    """
    r = radius.to(torch.int32)[:, None, :, None, None]
    y, above = dy.abs(), dy + r
    none = torch.full_like(y, -1)

    def within(width: Tensor, rows: Tensor) -> Tensor:
        return torch.where(rows & (width >= 0), width.square(), none)

    disc = r.square() - dy.square()
    box, bar, hole = r * 14 // 16, r * 6 // 16, r * 9 // 16
    high = {
        "circle": disc,
        "ring": disc,
        "square": within(box.expand_as(y), y <= box),
        "diamond": within(r * 19 // 16 - y, y >= 0),
        "triangle": within(above * 9 // 16, above <= r * 30 // 16),
        "cross": within(torch.where(y <= bar, r, bar), y <= r),
    }
    choice = shape[:, None, :, None, None]
    highest = torch.stack([high[name] for name in SHAPES]).gather(0, choice.expand_as(y)[None])[0]
    lowest = torch.where(choice == SHAPES.index("ring"), hole.square() - dy.square(), none)
    square = dx.square()
    return (square <= highest) & (square >= lowest)


def glyphs(font: tuple[str, ...], number: Tensor, left: Tensor, top: int) -> Tensor:
    """Strokes of a sign in each frame, bool [B, F, SIDE, SIDE]; number [B, F]: -1 for none; left [B], top: px of 64."""
    device = number.device
    blank = "0" * len(font[0])
    cells = constant(tuple(tuple(c == "1" for c in sign) for sign in (*font, blank)), device, torch.bool)
    scale = SIDE // 64
    line = torch.arange(SIDE, device=device)
    row = (line - top * scale).div(_CELL, rounding_mode="floor")
    column = (line - left[:, None] * scale).div(_CELL, rounding_mode="floor")  # [B, SIDE]
    near = ((row >= 0) & (row < 5))[:, None] & ((column >= 0) & (column < 3))[:, None]
    cell = row.clamp(0, 4)[:, None] * 3 + column.clamp(0, 2)[:, None]
    drawn = cells[number].gather(2, cell.flatten(1)[:, None].expand(-1, number.shape[1], -1))
    return drawn.view(*number.shape, SIDE, SIDE) & near[:, None]


def _stretched(lattice: Tensor) -> Tensor:
    """Integers [B, C, n, n] -> [B, C, SIDE, SIDE], bilinear in 256ths."""
    points = lattice.shape[-1]
    place = torch.arange(SIDE, device=lattice.device) * ((points - 1) * 256) // (SIDE - 1)
    cell = (place >> 8).clamp(max=points - 2)
    part = place - (cell << 8)
    wide = lattice[..., cell] * (256 - part) + lattice[..., cell + 1] * part
    part = part[:, None]
    return (wide[..., cell, :] * (256 - part) + wide[..., cell + 1, :] * part) >> 16


def background(scene: Scene, ticks: Tensor) -> Tensor:
    """Coloured clouds under fine grey clutter, drifting: uint8 [B, F, SIDE, SIDE, 3]."""
    clouds = integers(scene.seed, Field.CLOUDS, 0, 256, 3, _COARSE, _COARSE)
    clutter = integers(scene.seed, Field.CLUTTER, -256, 257, 1, _FINE, _FINE)
    strength = [setting(scene.level, name)[:, None, None, None] for name in ("clouds", "clutter")]
    coarse = _stretched(clouds) * strength[0]
    fine = _stretched(clutter) * strength[1]
    picture = ((coarse + fine) >> 8).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    drift = setting(scene.level, "drift")[:, None]
    speed = integers(scene.seed, Field.DRIFT, -drift, drift + 1, 2)
    shift = (speed[:, None] * ticks[..., None]).div(PIXEL, rounding_mode="floor")  # [B, F, 2]
    place = (torch.arange(SIDE, device=ticks.device) + shift[..., None]) % (2 * SIDE)
    # mirrored at the edges, so that the picture has no seam
    rows, columns = torch.where(place < SIDE, place, 2 * SIDE - 1 - place).unbind(2)
    scenes = torch.arange(len(scene), device=ticks.device)[:, None, None, None]
    return picture[scenes, rows[..., None], columns[:, :, None]]


def grain(scene: Scene, ticks: Tensor) -> Tensor:
    """Noise of a camera with triangular distribution, int16 [B, F, SIDE, SIDE, 1]; a function of seed and tick."""
    drawn = bits(scene.seed[:, None] + (ticks + 1) * 0x10001, Field.GRAIN, SIDE, SIDE)
    both = ((drawn >> 8) & 0xFF) + ((drawn >> 24) & 0xFF) - 0xFF
    strength = setting(scene.level, "grain")[:, None, None, None]
    return ((both * strength) >> 8).to(torch.int16)[..., None]
