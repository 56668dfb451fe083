"""Videos read back from their pixels alone, by other code than what draws them, and questions answered from that."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor

from dycoke.nano.generator import TICKS, Question, Scene, render
from dycoke.nano.generator.raster import DIGIT_FONT, LETTER_FONT

COLORS = {
    "red": (230, 40, 40),
    "green": (40, 200, 60),
    "blue": (50, 80, 230),
    "yellow": (230, 220, 50),
    "magenta": (230, 60, 220),
    "cyan": (60, 220, 220),
    "white": (240, 240, 240),
    "orange": (240, 140, 30),
}
SHAPES = ("circle", "square", "triangle", "cross", "diamond", "ring")
ORDINALS = ("first", "second", "third", "fourth", "fifth")
_INK, _LIT, _BOX = (255, 255, 255), (255, 255, 190), (128, 122, 112)
_DIGITS = dict(zip(DIGIT_FONT, "0123456789", strict=True))
_LETTERS = dict(zip(LETTER_FONT, "ACEFHJLPTU", strict=True))
_LEAST = 60  # px of one colour that are an object or a box
_MOVED = 8  # px that tell a motion from a centre that rounds now up, now down


@dataclass(frozen=True)
class Look:
    """An object at one tick: its colour and the middle of its outline, px of 128."""

    tick: int
    color: str
    x: float
    y: float

    @property
    def place(self) -> str:
        return f"{'top' if self.y < 64 else 'bottom'} {('left', 'middle', 'right')[int(self.x * 3 / 128)]}"


def _is(picture: Tensor, color: tuple[int, int, int]) -> Tensor:
    return (picture == torch.tensor(color, dtype=torch.uint8)[:, None, None]).all(0)


def _middle(mask: Tensor) -> tuple[float, float]:
    rows, columns = mask.nonzero().unbind(1)
    return (columns.min() + columns.max() + 1).item() / 2, (rows.min() + rows.max() + 1).item() / 2


def _outline(mask: Tensor) -> str:
    """The shape of the pixels of one object."""
    rows, columns = mask.nonzero().unbind(1)
    part = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].float()
    height, width = part.shape
    if not part[height // 2, width // 2]:
        return "ring"
    filled = part.mean()
    if filled > 0.7:
        return "square" if filled > 0.92 else "circle"
    if part[: height // 2].sum() < 0.7 * part[height // 2 :].sum():
        return "triangle"
    return "cross" if part[height // 10].mean() > 0.3 else "diamond"


def sign_in(picture: Tensor, known: dict[str, str]) -> str:
    """The sign written in a strip of a picture, "" if there is none; its strokes are 4 px wide."""
    ink = _is(picture, _INK)
    if not ink.any():
        return ""
    rows, columns = ink.nonzero().unbind(1)
    cells = ink[rows.min() + 2 : rows.min() + 20 : 4, columns.min() + 2 : columns.min() + 12 : 4]
    return known["".join("01"[cell] for cell in cells.flatten().tolist())]


def _runs(signs: list[str]) -> list[tuple[str, int]]:
    """(sign, first tick) of each stretch of equal signs."""
    found = []
    for sign, ticks in groupby(enumerate(signs), lambda pair: pair[1]):
        if sign:
            found.append((sign, next(ticks)[0]))
    return found


class Video:
    """What can be seen in one scene, at every tick: `looks` of each shape, the box, the digits, letters and flashes."""

    def __init__(self, scene: Scene):
        ticks = torch.arange(TICKS)[None]
        pictures = torch.cat([render(scene, part, noise=False).pixels[0] for part in ticks.split(16, 1)])
        self.looks: dict[str, list[Look]] = {}
        self.box: list[tuple[int, float, float]] = []
        for tick, picture in enumerate(pictures):
            self._look(tick, picture)
        self.order = sorted(self.looks, key=lambda shape: self.looks[shape][0].tick)
        self.digits = _runs([sign_in(picture[:, :26], _DIGITS) for picture in pictures])
        self.letters = _runs([sign_in(picture[:, 102:], _LETTERS) for picture in pictures])
        self.flashes = _runs(["lit" if _is(picture, _LIT).any() else "" for picture in pictures])

    def _look(self, tick: int, picture: Tensor) -> None:
        for color, rgb in COLORS.items():
            mask = _is(picture, rgb)
            if mask.sum() > _LEAST:
                self.looks.setdefault(_outline(mask), []).append(Look(tick, color, *_middle(mask)))
        mask = _is(picture, _BOX)
        if mask.sum() > _LEAST:
            self.box.append((tick, *_middle(mask)))

    @property
    def covered(self) -> str | None:
        """The shape that was seen last where the box came."""
        if not self.box:
            return None
        tick, x, y = self.box[0]
        last = {shape: looks[-1] for shape, looks in self.looks.items() if looks[-1].tick == tick - 1}
        return min(last, key=lambda shape: abs(last[shape].x - x) + abs(last[shape].y - y))

    def motion(self, shape: str) -> str:
        first, last = self.looks[shape][0], self.looks[shape][-1]
        x, y = last.x - first.x, last.y - first.y
        if max(abs(x), abs(y)) < _MOVED:
            return "still"
        if abs(x) > abs(y):
            return "right" if x > 0 else "left"
        return "down" if y > 0 else "up"

    def changes(self, shape: str) -> list[Look]:
        """Its looks of another colour than the one before."""
        return [now for before, now in pairwise(self.looks[shape]) if now.color != before.color]

    def _fast(self, shape: str) -> str:
        steps = [now.tick for before, now in pairwise(self.looks[shape]) if (now.x, now.y) != (before.x, before.y)]
        return "fast" if steps[-1] - steps[0] < 14 else "slowly"

    def events(self) -> str:
        found = []
        for shape, looks in self.looks.items():
            motion = self.motion(shape)
            how = "stays still" if motion == "still" else f"moves {motion}"
            article = "an" if looks[0].color == "orange" else "a"
            found.append((looks[0].tick, f"{article} {looks[0].color} {shape} appears and {how}"))
            found += [(look.tick, f"the {shape} turns {look.color}") for look in self.changes(shape)]
            if looks[-1].tick < TICKS - 1:
                end = f"a box covers the {shape}" if shape == self.covered else f"the {shape} leaves"
                found.append((looks[-1].tick + 1, end))
        clauses = ", then ".join(clause for _, clause in sorted(found))
        return clauses[0].upper() + clauses[1:] + "."

    def answer(self, question: Question) -> str:
        """The answer to a question in its first wording."""
        words = question.text.rstrip("?.").replace(",", "").split()
        shape = next((word for word in words if word in SHAPES), "")
        looks = self.looks.get(shape, [])
        covered = self.covered
        match question.task:
            case "color_start":
                return looks[0].color
            case "color_end":
                return looks[-1].color if looks[-1].tick == TICKS - 1 else "gone"
            case "position_start":
                return looks[0].place
            case "position_end":
                return looks[-1].place if looks[-1].tick == TICKS - 1 else "gone"
            case "turns":
                return next((look.color for look in self.changes(shape)), "none")
            case "direction":
                motion = self.motion(shape)
                return "It stays still" if motion == "still" else motion
            case "speed":
                return self._fast(shape)
            case "existence":
                return looks[0].color if looks else "none"
            case "order":
                place = next(place for place, word in enumerate(ORDINALS) if word in words)
                return self.order[place] if place < len(self.order) else "none"
            case "count":
                return str(len(self.looks))
            case "moving_count":
                return str(sum(self.motion(each) != "still" for each in self.looks))
            case "covered":
                return covered or "none"
            case "covered_color":
                return self.looks[covered][-1].color if covered else "none"
            case "events":
                return self.events()
            case "flash_count":
                return str(len(self.flashes))
            case "digit_count":
                return str(len(self.digits))
            case "digits":
                return ", ".join(sign for sign, _ in self.digits)
            case "first_digit":
                return self.digits[0][0]
            case "last_digit":
                return self.digits[-1][0]
            case "transcript":
                return " ".join(sign for sign, _ in sorted([*self.digits, *self.letters], key=lambda each: each[1]))
        raise ValueError(f"task={question.task!r}: not known how to answer it by watching")
