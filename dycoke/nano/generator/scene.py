"""Scenes: what happens in a batch of videos, drawn from integer seeds, as tensors that drawing and questions read.

A scene lasts TICKS ticks, whatever the number of frames that show it. Up to five objects of different shapes appear one
after another in three columns. Each may move, fast or slowly, may change colour once, may leave, and one may be
covered by a box. Digits come one after another in the upper part, letters in the lower one, a lamp flashes, grey
things cross the picture and mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dycoke.nano.generator.constants import constant
from dycoke.nano.generator.levels import STANDARD, level_numbers, setting
from dycoke.nano.generator.randomness import bits, chance, integers, permutation
from dycoke.nano.generator.schedule import TICKS, Field, event_ticks, kept_apart, slot_ticks

OBJECTS = 5
DIGITS = 6
LETTERS = 4
FLASHES = 6
DISTRACTORS = 5

UNIT = 16
"""Units of length in a pixel of a 64 px frame."""

COLORS = ("red", "green", "blue", "yellow", "magenta", "cyan", "white", "orange")
SHAPES = ("circle", "square", "triangle", "cross", "diamond", "ring")
DIRECTIONS = ("left", "right", "up", "down", "still")
STILL = DIRECTIONS.index("still")
LETTER_NAMES = "ACEFHJLPTU"
COLUMNS = ("left", "middle", "right")
ROWS = ("top", "bottom")

_FOLLOWS = {3: 0, 4: 1}  # object -> the one whose column it takes
_COLUMN_AT = (11 * UNIT, 32 * UNIT, 53 * UNIT)
_CENTRE = 32 * UNIT
_HALF_WAY = (6 * UNIT, 6 * UNIT, 7 * UNIT, 7 * UNIT, 0)  # half of what is travelled, by direction
_STEP_X, _STEP_Y = (-1, 1, 0, 0, 0), (0, 0, -1, 1, 0)
_FAST_OF_LONG, _MOVES_OF_LONG, _MOVES_OF_SHORT = 20, 85, 60  # percent
_FAST, _SLOW = (6, 9), (20, 29)  # ticks a motion takes, lowest and one above the highest
_DIGIT_LAYOUT = (DIGITS, 2, 7)  # slots, latest begin within a slot, longest
_LETTER_LAYOUT = (LETTERS, 7, 8)
_FLASH_LAYOUT = (FLASHES, 3, 4)
ONSET_GAP = 3
"""Ticks between the beginning of a digit and that of a letter, at least."""


@dataclass(frozen=True, slots=True)
class Scene:
    """B scenes, all int64 but for `fast`, bool. K = OBJECTS, of which the first `count` are shown.

    seed, level, count [B]; shape, color, turned (colour after its change), direction, column, appear, change, leave,
    cover [B, K], ticks being TICKS where it never happens; fast, begin, pace [B, K]: motion, its first tick and how
    many it takes; x, y [B, K, 2]: centre before and after the motion, units; radius [B, K], units;
    digits, digit_on, digit_off [B, DIGITS]; letters, letter_on, letter_off [B, LETTERS]; flash_on, flash_off
    [B, FLASHES]; digit_count, letter_count, flash_count [B]; strips [B, 3]: left edge of digits and letters and
    centre of the lamp, px; distractor_count [B]; distractors [B, DISTRACTORS, 5]: x, y, half size, speed, tone.
    """

    seed: Tensor
    level: Tensor
    count: Tensor
    shape: Tensor
    color: Tensor
    turned: Tensor
    direction: Tensor
    column: Tensor
    appear: Tensor
    change: Tensor
    leave: Tensor
    cover: Tensor
    fast: Tensor
    begin: Tensor
    pace: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    digit_count: Tensor
    digits: Tensor
    digit_on: Tensor
    digit_off: Tensor
    letter_count: Tensor
    letters: Tensor
    letter_on: Tensor
    letter_off: Tensor
    flash_count: Tensor
    flash_on: Tensor
    flash_off: Tensor
    strips: Tensor
    distractor_count: Tensor
    distractors: Tensor

    def __len__(self) -> int:
        return self.seed.shape[0]

    def to(self, device: torch.device | str) -> Scene:
        return Scene(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


def sample_scenes(seeds: Tensor, level: str | Tensor = STANDARD) -> Scene:
    """Scenes of int64 seeds [B]; scene i depends on seeds[i] and its level alone.

    level: a name of LEVELS, or the number of one for each scene, int64 [B]. Raises TypeError if seeds are anything
    else, ValueError for an unknown level.
    """
    if seeds.dtype != torch.int64 or seeds.ndim != 1:
        raise TypeError(f"seeds: expected int64 [B], got {seeds.dtype} {tuple(seeds.shape)}")
    levels = level_numbers(level, len(seeds)).to(seeds.device)
    return Scene(seed=seeds, level=levels, **_objects(seeds, levels), **_shown(seeds, levels), **_others(seeds, levels))


def _objects(seeds: Tensor, level: Tensor) -> dict[str, Tensor]:
    count = integers(seeds, Field.COUNT, setting(level, "fewest"), setting(level, "most") + 1)
    number = torch.arange(OBJECTS, device=seeds.device)
    there = number < count[:, None]
    changes = there & chance(seeds, Field.CHANGES, 50, OBJECTS)
    spare = len(COLORS) - OBJECTS  # colours that no object has at first
    changes &= changes.cumsum(1) <= spare
    leaves = there & chance(seeds, Field.LEAVES, 20, OBJECTS)
    for later, earlier in _FOLLOWS.items():
        leaves[:, earlier] |= there[:, later]
    stays = there & ~leaves
    turn = bits(seeds, Field.COVERED, OBJECTS).argsort(dim=-1).masked_fill(~stays, -1)
    covered = stays & (number == turn.argmax(1, keepdim=True)) & chance(seeds, Field.COVERS, 80)[:, None]
    ticks = event_ticks(seeds, torch.stack([there, changes, leaves | covered], -1), _FOLLOWS)
    appear, change, end = ticks.unbind(-1)
    colors = permutation(seeds, Field.COLORS, len(COLORS))
    spared = OBJECTS + (changes.cumsum(1) - 1).clamp(0, spare - 1)
    track = permutation(seeds, Field.TRACKS, len(COLUMNS))
    column = torch.cat([track, track[:, list(_FOLLOWS.values())]], 1)
    return {
        "count": count,
        "shape": permutation(seeds, Field.SHAPES, len(SHAPES))[:, :OBJECTS],
        "color": colors[:, :OBJECTS],
        "turned": torch.where(changes, colors.gather(1, spared), colors[:, :OBJECTS]),
        "column": column,
        "appear": appear,
        "change": change,
        "leave": torch.where(leaves, end, TICKS),
        "cover": torch.where(covered, end, TICKS),
        **_motion(seeds, level, column, appear, end),
    }


def _motion(seeds: Tensor, level: Tensor, column: Tensor, appear: Tensor, end: Tensor) -> dict[str, Tensor]:
    """Motion of objects: over before their stay ends, and only if that is long enough to see it."""
    stay = end - appear
    low, high = constant((_FAST, _SLOW), stay.device)[..., None].unbind(1)
    fast_pace, slow_pace = integers(seeds, Field.PACE, low, high, 2, OBJECTS).unbind(1)
    long = stay >= slow_pace + 3
    # a slow motion takes a long stay: where there is one, most are slow, so that both come equally often
    slow = long & ~chance(seeds, Field.FAST, _FAST_OF_LONG, OBJECTS)
    pace = torch.where(slow, slow_pace, fast_pace)
    moves = chance(seeds, Field.MOVES, torch.where(long, _MOVES_OF_LONG, _MOVES_OF_SHORT), OBJECTS)
    moves &= stay >= pace + 3
    direction = torch.where(moves, integers(seeds, Field.DIRECTION, 0, STILL, OBJECTS), STILL)
    wait = integers(seeds, Field.WAIT, 0, (stay - pace - 2).clamp(1, 5), OBJECTS)
    side, away, off = integers(seeds, Field.PLACE, 0, 1 << 20, 3, OBJECTS).unbind(1)
    off_centre = (side % 2 * 2 - 1) * (4 * UNIT + away % (7 * UNIT))
    across = off % (8 * UNIT) - 4 * UNIT
    step_x, step_y, half = (constant(t, direction.device)[direction] for t in (_STEP_X, _STEP_Y, _HALF_WAY))
    x = constant(_COLUMN_AT, column.device)[column] + torch.where(step_x == 0, across, 0)
    y = _CENTRE + torch.where(step_y == 0, off_centre, 0)
    return {
        "direction": direction,
        "fast": moves & ~slow,
        "begin": torch.where(moves, appear + 1 + wait, TICKS),
        "pace": pace,
        "x": torch.stack([x - step_x * half, x + step_x * half], -1),
        "y": torch.stack([y - step_y * half, y + step_y * half], -1),
        "radius": setting(level, "radius")[:, None] + integers(seeds, Field.RADIUS, 0, 12, OBJECTS),
    }


def _shown(seeds: Tensor, level: Tensor) -> dict[str, Tensor]:
    """Digits, letters and flashes. Neighbours in time differ, or the two would look like one."""
    brief = setting(level, "brief")
    digit_count = integers(seeds, Field.DIGIT_COUNT, 3, DIGITS + 1)
    fields_of = (Field.DIGIT_SLOTS, Field.DIGIT_ON, Field.DIGIT_LENGTH)
    digit_on, digit_off = slot_ticks(seeds, fields_of, _DIGIT_LAYOUT, digit_count, brief)
    letter_count = integers(seeds, Field.LETTER_COUNT, 1, LETTERS + 1)
    fields_of = (Field.LETTER_SLOTS, Field.LETTER_ON, Field.LETTER_LENGTH)
    letter_on, letter_off = slot_ticks(seeds, fields_of, _LETTER_LAYOUT, letter_count, brief + 1)
    letter_on, letter_off = kept_apart(letter_on, letter_off, digit_on, ONSET_GAP, _LETTER_LAYOUT[1])
    flash_count = integers(seeds, Field.FLASH_COUNT, 0, FLASHES)
    fields_of = (Field.FLASH_SLOTS, Field.FLASH_ON, Field.FLASH_LENGTH)
    flash_on, flash_off = slot_ticks(seeds, fields_of, _FLASH_LAYOUT, flash_count, setting(level, "flash"))
    digit_x, letter_x, lamp_x, half = integers(
        seeds, Field.STRIPS, 0, constant((22, 54, 22, 2), seeds.device), 4
    ).unbind(1)
    return {
        "digit_count": digit_count,
        "digits": _neighbours_differ(seeds, Field.DIGITS, DIGITS),
        "digit_on": digit_on,
        "digit_off": digit_off,
        "letter_count": letter_count,
        "letters": _neighbours_differ(seeds, Field.LETTERS, LETTERS),
        "letter_on": letter_on,
        "letter_off": letter_off,
        "flash_count": flash_count,
        "flash_on": flash_on,
        "flash_off": flash_off,
        "strips": torch.stack([half * 32 + 2 + digit_x, 2 + letter_x, (1 - half) * 32 + 5 + lamp_x], 1),
    }


def _neighbours_differ(seeds: Tensor, field: int, size: int) -> Tensor:
    """`size` numbers below ten, each other than the one before it, int64 [B, size]."""
    least = (torch.arange(size, device=seeds.device) > 0).long()
    steps = integers(seeds, field, least, 10, size)
    return steps.cumsum(1) % 10


def _others(seeds: Tensor, level: Tensor) -> dict[str, Tensor]:
    low = constant((0, 14 * UNIT, UNIT, -12, 0), seeds.device)
    high = constant((64 * UNIT, 50 * UNIT, 3 * UNIT, 13, 4), seeds.device)
    return {
        "distractor_count": integers(seeds, Field.DISTRACTOR_COUNT, 0, setting(level, "distractors") + 1),
        "distractors": integers(seeds, Field.DISTRACTORS, low, high, DISTRACTORS, 5),
    }
