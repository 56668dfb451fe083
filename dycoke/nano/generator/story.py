"""Stories: scenes in words, as an annotator would write them, with the ticks at which it can be seen."""

from __future__ import annotations

from dataclasses import dataclass

from dycoke.nano.generator.levels import LEVELS
from dycoke.nano.generator.scene import COLORS, COLUMNS, DIRECTIONS, LETTER_NAMES, ROWS, SHAPES, Scene
from dycoke.nano.generator.schedule import TICKS

_ROW_BORDER = 32 * 16  # units


@dataclass(frozen=True, slots=True)
class Actor:
    """One object: its words, and the ticks of its events, TICKS for those that never come.

    start, end: where it is before and after its motion, which takes `pace` ticks from `begin` on.
    """

    shape: str
    color: str
    turned: str
    direction: str
    fast: bool
    start: str
    end: str
    appear: int
    change: int
    leave: int
    cover: int
    begin: int
    pace: int

    @property
    def moves(self) -> bool:
        return self.direction != "still"

    @property
    def changes(self) -> bool:
        return self.change < TICKS

    @property
    def stays(self) -> bool:
        """Whether the object can be seen at the end."""
        return self.leave == self.cover == TICKS


@dataclass(frozen=True, slots=True)
class Shown:
    """A digit or a letter, or a flash (""), and the ticks it is shown at: begin <= tick < end."""

    sign: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Story:
    """One scene in words: its objects in order of appearance, its digits, letters and flashes in order of time."""

    seed: int
    level: str
    actors: tuple[Actor, ...]
    digits: tuple[Shown, ...]
    letters: tuple[Shown, ...]
    flashes: tuple[Shown, ...]

    @property
    def covered(self) -> Actor | None:
        return next((actor for actor in self.actors if actor.cover < TICKS), None)

    @property
    def signs(self) -> list[Shown]:
        """Digits and letters together, in order of time."""
        return sorted((*self.digits, *self.letters), key=lambda shown: shown.begin)


def stories(scene: Scene) -> list[Story]:
    """Each scene in words. Reads the tensors once, so hand it a scene on the CPU."""
    columns = {name: getattr(scene, name).tolist() for name in _READ}
    levels = list(LEVELS)
    told = []
    for b in range(len(scene)):
        row = {name: values[b] for name, values in columns.items()}
        actors = sorted((_actor(row, k) for k in range(row["count"])), key=lambda actor: actor.appear)
        digits = _signs(row, "digit", [str(d) for d in row["digits"]])
        letters = _signs(row, "letter", [LETTER_NAMES[i] for i in row["letters"]])
        flashes = _signs(row, "flash", [""] * len(row["flash_on"]))
        told.append(Story(row["seed"], levels[row["level"]], tuple(actors), digits, letters, flashes))
    return told


_READ = (
    *("seed", "level", "count", "shape", "color", "turned", "direction", "column", "fast", "y"),
    *("appear", "change", "leave", "cover", "begin", "pace", "digit_count", "digits", "digit_on", "digit_off"),
    *("letter_count", "letters", "letter_on", "letter_off", "flash_count", "flash_on", "flash_off"),
)


def _actor(row: dict, k: int) -> Actor:
    column = COLUMNS[row["column"][k]]
    start, end = (f"{ROWS[y > _ROW_BORDER]} {column}" for y in row["y"][k])
    return Actor(
        shape=SHAPES[row["shape"][k]],
        color=COLORS[row["color"][k]],
        turned=COLORS[row["turned"][k]],
        direction=DIRECTIONS[row["direction"][k]],
        fast=row["fast"][k],
        start=start,
        end=end,
        **{name: row[name][k] for name in ("appear", "change", "leave", "cover", "begin", "pace")},
    )


def _signs(row: dict, kind: str, signs: list[str]) -> tuple[Shown, ...]:
    count = row[f"{kind}_count"]
    times = zip(signs, row[f"{kind}_on"], row[f"{kind}_off"], strict=True)
    return tuple(Shown(*each) for each in list(times)[:count])
