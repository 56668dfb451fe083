"""Levels of difficulty, as numbers that the drawing of scenes reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dycoke.nano.generator.constants import constant


@dataclass(frozen=True, slots=True)
class Level:
    """fewest, most: objects. distractors: grey things in motion, at most. clouds, clutter: brightness of the coarse and
    the fine background, of 255. drift: speed of the background, at most, 1/16 px a tick. radius: smallest radius of an
    object, 1/16 px. brief: ticks that a digit or a letter is shown at least. flash: ticks that a flash lasts at least.
    grain: camera noise, of 255.
    """

    fewest: int
    most: int
    distractors: int
    clouds: int
    clutter: int
    drift: int
    radius: int
    brief: int
    flash: int
    grain: int


LEVELS = {
    "easy": Level(1, 3, 0, 80, 10, 0, 80, 6, 3, 2),
    "standard": Level(2, 5, 3, 100, 22, 10, 70, 4, 2, 5),
    "hard": Level(3, 5, 5, 120, 34, 18, 64, 3, 2, 8),
}
STANDARD = "standard"


def level_numbers(level: str | Tensor, count: int) -> Tensor:
    """int64 [count]: the place in LEVELS of a name, or of each scene. Raises ValueError for an unknown level."""
    names = list(LEVELS)
    if isinstance(level, str):
        if level not in LEVELS:
            raise ValueError(f"level={level!r}: expected one of {', '.join(names)}")
        return torch.full((count,), names.index(level))
    if level.dtype != torch.int64 or tuple(level.shape) != (count,):
        raise ValueError(f"level: expected int64 [{count}], got {level.dtype} {tuple(level.shape)}")
    if count and not 0 <= int(level.min()) <= int(level.max()) < len(names):
        raise ValueError(f"level: {int(level.min())} to {int(level.max())}: expected 0 to {len(names) - 1}")
    return level


def setting(level: Tensor, name: str) -> Tensor:
    """A number of each scene's level, int64 like `level`."""
    return constant(tuple(getattr(each, name) for each in LEVELS.values()), level.device)[level]
