"""Ticks of the events of a scene, which keep a distance so that a dense video shows each by itself."""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from dycoke.nano.generator.randomness import fractions, integers, share, subset

TICKS = 64
"""Length of a scene; also a tick at which nothing ever happens."""

EVENT_GAP = 3
"""Ticks between any two events of objects, at least."""

_CELL = 4
_CELLS = TICKS // _CELL
_ONE = 1 << 24


class Field(IntEnum):
    """Uses of a scene's seed: no two of them may share a number."""

    COUNT = 1
    SHAPES = 2
    COLORS = 3
    TRACKS = 4
    CHANGES = 5
    LEAVES = 6
    COVERS = 7
    COVERED = 8
    ORDER = 9
    PARTING = 10
    CELLS = 11
    JITTER = 12
    MOVES = 13
    FAST = 14
    DIRECTION = 15
    PACE = 16
    WAIT = 17
    PLACE = 18
    RADIUS = 19
    DIGIT_COUNT = 20
    DIGITS = 21
    DIGIT_SLOTS = 22
    DIGIT_ON = 23
    DIGIT_LENGTH = 24
    LETTER_COUNT = 25
    LETTERS = 26
    LETTER_SLOTS = 27
    LETTER_ON = 28
    LETTER_LENGTH = 29
    FLASH_COUNT = 30
    FLASH_SLOTS = 31
    FLASH_ON = 32
    FLASH_LENGTH = 33
    STRIPS = 34
    DISTRACTOR_COUNT = 35
    DISTRACTORS = 36
    CLOUDS = 37
    CLUTTER = 38
    DRIFT = 39
    GRAIN = 40
    ABSENT = 41
    ASKED = 43
    ASKED_AGAIN = 44
    FAMILY = 45


def event_ticks(seeds: Tensor, wanted: Tensor, after: dict[int, int]) -> Tensor:
    """Ticks of each wanted event, int64 [B, K, E]; TICKS where none is wanted.

    wanted: bool [B, K, E], the E possible events of each of K objects in the order they must come in. after: object ->
    the one whose events must all be over before its own, where both are there. Events are EVENT_GAP apart or more.
    """
    batch, objects, kinds = wanted.shape
    key = fractions(seeds, Field.ORDER, objects, kinds).sort(-1).values
    borders = integers(seeds, Field.PARTING, _ONE * 3 // 8, _ONE * 5 // 8, objects)
    for later, earlier in after.items():
        both = wanted[:, later].any(-1, keepdim=True)
        border = borders[:, later, None]
        key[:, earlier] = torch.where(both, share(key[:, earlier], border), key[:, earlier])
        key[:, later] = torch.where(both, border + share(key[:, later], _ONE - border), key[:, later])
    flat = torch.where(wanted, key, 2 * _ONE).flatten(1)
    place = flat.argsort(dim=-1, stable=True).argsort(dim=-1)
    cells = subset(seeds, Field.CELLS, _CELLS, wanted.flatten(1).sum(-1))
    spread = _CELL - EVENT_GAP + 1
    ticks = cells * _CELL + integers(seeds, Field.JITTER, 0, spread, _CELLS)
    found = ticks.gather(1, place.clamp(max=_CELLS - 1)).view(batch, objects, kinds)
    return torch.where(wanted, found, TICKS)


def slot_ticks(
    seeds: Tensor, fields: tuple[int, int, int], layout: tuple[int, int, int], count: Tensor, brief: Tensor
) -> tuple[Tensor, Tensor]:
    """Begin and end of things shown one after another, two int64 [B, slots]; TICKS behind the first `count` [B].

    fields: those of slots, begin and length. layout: slots, ticks that a thing may begin after its slot does, and ticks
    that it lasts at most; it lasts `brief` [B] at least.
    """
    slots, late, longest = layout
    width = TICKS // slots
    which = subset(seeds, fields[0], slots, count)
    begin = which * width + integers(seeds, fields[1], 0, late + 1, slots)
    end = begin + integers(seeds, fields[2], brief[:, None], longest + 1, slots)
    used = torch.arange(slots, device=seeds.device) < count[:, None]
    return torch.where(used, begin, TICKS), torch.where(used, end, TICKS)


def kept_apart(begin: Tensor, end: Tensor, others: Tensor, gap: int, late: int) -> tuple[Tensor, Tensor]:
    """Things shown, moved by up to `late` ticks within their slots so that none begins within `gap` ticks of `others`.

    begin, end [B, S] as `slot_ticks` gives them with that `late`; others [B, O]. Slots are TICKS // S wide.
    """
    width = TICKS // begin.shape[1]
    slot, offset = begin.div(width, rounding_mode="floor") * width, begin % width
    tried = (offset[..., None] + torch.arange(late + 1, device=begin.device)) % (late + 1) + slot[..., None]
    free = ((tried[..., None] - others[:, None, None]).abs() >= gap).all(-1)
    first = tried.gather(-1, free.int().argmax(-1, keepdim=True))[..., 0]
    used = begin < TICKS
    return torch.where(used, first, TICKS), torch.where(used, end - begin + first, TICKS)
