"""Drawing scenes: frames at any ticks, with the dense annotation of every patch, on the scenes' device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dycoke.nano.generator.constants import constant
from dycoke.nano.generator.raster import (
    DIGIT_FONT,
    LETTER_FONT,
    SIDE,
    background,
    glyphs,
    grain,
    inside,
    middles,
)
from dycoke.nano.generator.scene import DISTRACTORS, OBJECTS, SHAPES, UNIT, Scene
from dycoke.nano.generator.schedule import TICKS

FRAME = 64
"""px of a frame as the model sees it: a drawn one, halved."""
PATCHES = 8
"""Patches in a line of a frame."""
NONE = 10
"""The digit or letter where none is shown."""
BOX = len(SHAPES) + 1
"""The shape of a box that covers an object, where shapes count from 1."""

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
_GREYS = ((95, 95, 95), (115, 115, 115), (135, 135, 135), (155, 155, 155))
_BOX_TONES = ((70, 66, 60), (128, 122, 112))
_LAMP_OFF, _LAMP_ON, _INK = (70, 60, 40), (255, 255, 190), (255, 255, 255)
_PALETTE = ((0, 0, 0), *_RGB, *_GREYS, *_BOX_TONES, _LAMP_OFF, _LAMP_ON, _INK)
_GREY = 1 + len(_RGB)
_BOXED = _GREY + len(_GREYS)
_LAMP = _BOXED + len(_BOX_TONES)
_INKED = _LAMP + 2

_DIGITS_TOP, _LETTERS_TOP, _LAMP_AT, _LAMP_HALF = 2, 52, 7, 2  # px of 64
_BOX_HALF = 13 * UNIT // 2
_STRIPES = 4  # px of the canvas
_SAMPLE = 4  # px of the canvas between the points by which patches are annotated
_COVERED = 15  # percent of a patch that an object must cover to be its annotation


@dataclass(frozen=True, slots=True)
class Frames:
    """pixels uint8 [B, F, 3, S, S]; owner [B, F, PATCHES, PATCHES] int64: what a patch shows, 0 = nothing, k + 1 =
    object k, OBJECTS + k + 1 = the box over it; digit, letter [B, F] int64, NONE where none is shown; lamp [B, F]
    int64, 1 where it is lit."""

    pixels: Tensor
    owner: Tensor
    digit: Tensor
    letter: Tensor
    lamp: Tensor


def halved(pixels: Tensor) -> Tensor:
    """uint8 [..., S, S] -> [..., S / 2, S / 2], the mean of each four, rounded."""
    rows = pixels[..., ::2, :].to(torch.int16) + pixels[..., 1::2, :]
    return ((rows[..., ::2] + rows[..., 1::2] + 2) >> 2).to(torch.uint8)


def render(scene: Scene, ticks: Tensor, side: int = SIDE, *, noise: bool = True) -> Frames:
    """Draw the scenes at `ticks` int64 [B, F] in [0, TICKS), SIDE or FRAME px wide, on the scenes' device.

    noise: with the grain that belongs to the seed. Raises ValueError if a shape, a tick or the side is out of range.
    """
    if ticks.ndim != 2 or ticks.shape[0] != len(scene) or ticks.dtype != torch.int64:
        raise ValueError(f"ticks: expected int64 [{len(scene)}, frames], got {ticks.dtype} {tuple(ticks.shape)}")
    if ticks.numel() and not 0 <= int(ticks.min()) <= int(ticks.max()) < TICKS:
        raise ValueError(f"ticks: {int(ticks.min())} to {int(ticks.max())}: expected 0 to {TICKS - 1}")
    if side not in (SIDE, FRAME):
        raise ValueError(f"side={side}: expected {SIDE} or {FRAME}")
    return draw_frames(scene, ticks, side, noise)


def draw_frames(scene: Scene, ticks: Tensor, side: int, noise: bool) -> Frames:
    """`render` for those who know that their ticks are right: looking at them would make a GPU wait for its host."""
    canvas, owner = _objects(scene, ticks, _distractors(scene, ticks))
    canvas, lamp = _lamp(scene, ticks, canvas)
    digit = _sign(scene.digits, scene.digit_on, scene.digit_off, ticks)
    letter = _sign(scene.letters, scene.letter_on, scene.letter_off, ticks)
    ink = glyphs(DIGIT_FONT, digit, scene.strips[:, 0], _DIGITS_TOP)
    ink |= glyphs(LETTER_FONT, letter, scene.strips[:, 1], _LETTERS_TOP)
    canvas = canvas.masked_fill(ink, _INKED)[..., None]
    palette = constant(_PALETTE, ticks.device, torch.uint8)
    picture = torch.where(canvas > 0, palette[canvas[..., 0].int()], background(scene, ticks))
    if noise:
        picture = (picture + grain(scene, ticks)).clamp(0, 255).to(torch.uint8)
    pixels = picture.permute(0, 1, 4, 2, 3)
    pixels = pixels.contiguous() if side == SIDE else halved(pixels)
    return Frames(pixels, owner, digit % (NONE + 1), letter % (NONE + 1), lamp)


def _sign(signs: Tensor, on: Tensor, off: Tensor, ticks: Tensor) -> Tensor:
    """Which sign is shown at each tick, [B, F], -1 for none."""
    shown = (ticks[..., None] >= on[:, None]) & (ticks[..., None] < off[:, None])
    return ((signs + 1)[:, None] * shown).sum(-1) - 1


def _between(line: Tensor, centre: Tensor, half: Tensor | int) -> Tensor:
    return (line - centre).abs() <= half


def _distractors(scene: Scene, ticks: Tensor) -> Tensor:
    """The empty canvas with grey things on it, the lighter over the darker."""
    line = middles(ticks.device)
    x, y, half, speed, tone = (each[:, None, :, None, None] for each in scene.distractors.int().unbind(-1))
    across = (x + speed * ticks.int()[..., None, None, None]) % (64 * UNIT)
    there = torch.arange(DISTRACTORS, device=ticks.device) < scene.distractor_count[:, None]
    there = there[:, None, :, None, None]
    columns = _between(line, across, half)  # [B, F, D, 1, SIDE]
    rows = _between(line[:, None], y, half) & there  # [B, 1, D, SIDE, 1]
    return ((_GREY + tone).to(torch.uint8) * (columns & rows)).amax(2)


def _objects(scene: Scene, ticks: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
    """The canvas with objects and boxes on it, the later over the earlier, and what each patch shows."""
    line = middles(ticks.device)
    now = ticks[..., None]
    there = (now >= scene.appear[:, None]) & (now < scene.leave[:, None])
    number = torch.arange(OBJECTS, device=ticks.device)
    there &= (number < scene.count[:, None])[:, None]
    boxed = there & (now >= scene.cover[:, None])
    color = torch.where(now >= scene.change[:, None], scene.turned[:, None], scene.color[:, None]) + 1
    # what is drawn last has the highest number; its low byte says how it looks
    paint = (torch.where(boxed, _BOXED, color) + ((number + 1) << 8)).to(torch.int16)[..., None, None]
    seen, box = _masks(scene, ticks, line, there, boxed)
    top = (paint * (seen | box)).amax(2)
    stripes = torch.arange(SIDE, device=ticks.device)
    stripes = ((stripes + stripes[:, None]) // _STRIPES % 2 + _BOXED).to(torch.uint8)
    look = (top & 0xFF).to(torch.uint8)
    canvas = torch.where(look == _BOXED, stripes, torch.where(top > 0, look, canvas))
    seen, box = (_patches(mask) for mask in _masks(scene, ticks, line[_SAMPLE // 2 :: _SAMPLE], there, boxed))
    shown = torch.where(box, OBJECTS, 0) + (number + 1)[:, None, None]
    last = ((seen | box) * (number + 1)[:, None, None]).amax(2, keepdim=True)
    owner = (shown * (last == (number + 1)[:, None, None])).amax(2)
    return canvas, owner


def _masks(scene: Scene, ticks: Tensor, line: Tensor, there: Tensor, boxed: Tensor) -> tuple[Tensor, Tensor]:
    """Where objects are seen and where their boxes are, bool [B, F, OBJECTS, L, L], at the points of a line [L]."""
    x, y = (axis.int()[..., None, None] for axis in centres(scene, ticks))
    dx, dy = line - x, line[:, None] - y
    seen = inside(scene.shape, scene.radius, dx, dy) & (there & ~boxed)[..., None, None]
    rows = (dy.abs() <= _BOX_HALF) & boxed[..., None, None]
    return seen, (dx.abs() <= _BOX_HALF) & rows


def centres(scene: Scene, ticks: Tensor) -> tuple[Tensor, Tensor]:
    """Centre of each object at each tick: x, y [B, F, OBJECTS], units."""
    pace = scene.pace[:, None]
    gone = (ticks[..., None] - scene.begin[:, None]).clamp(min=0).minimum(pace)

    def at(ends: Tensor) -> Tensor:
        start, stop = ends[:, None].unbind(-1)
        return start + ((stop - start) * gone).div(pace, rounding_mode="floor")

    return at(scene.x), at(scene.y)


def _patches(mask: Tensor) -> Tensor:
    """bool [..., L, L] -> [..., PATCHES, PATCHES]: which patches it covers enough of."""
    size = mask.shape[-1] // PATCHES
    covered = mask.unflatten(-1, (PATCHES, size)).unflatten(-3, (PATCHES, size)).sum((-1, -3))
    return covered * 100 > _COVERED * size**2


def _lamp(scene: Scene, ticks: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
    """The canvas with the lamp on it, and where it is lit, int64 [B, F]."""
    lit = ((ticks[..., None] >= scene.flash_on[:, None]) & (ticks[..., None] < scene.flash_off[:, None])).any(-1)
    line = middles(ticks.device)
    half = _LAMP_HALF * UNIT
    columns = _between(line, (scene.strips[:, 2] * UNIT).int()[:, None, None, None], half)
    rows = _between(line, _LAMP_AT * UNIT, half)[:, None]
    tone = (lit + _LAMP).to(torch.uint8)[..., None, None]
    return torch.where(rows & columns, tone, canvas), lit.long()
