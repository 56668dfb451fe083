"""Tables of a report, before they are written as Markdown, LaTeX or CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

NOTHING = "-"
PAPER = "paper"


@dataclass(frozen=True)
class Cell:
    """A text, its rank in its column (1 the best, 2 the second, 0 neither), and the numbers of its footnotes.

    beside: a text behind it that is not marked by the rank.
    """

    text: str
    rank: int = 0
    notes: tuple[int, ...] = ()
    beside: str = ""


@dataclass(frozen=True)
class Filled:
    """A column of a table: its header and a cell for each row, over all sections."""

    header: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Section:
    """Rows that are compared with each other, under a heading."""

    heading: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Table:
    """Headers, sections of rows, what the foot says, numbered footnotes, and the ids of the runs behind each row."""

    title: str
    headers: tuple[str, ...]
    sections: tuple[Section, ...]
    foot: tuple[str, ...]
    notes: tuple[str, ...]
    runs: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass
class Notes:
    """Collects footnotes; the same text has one number, from 1."""

    texts: list[str] = field(default_factory=list)

    def number(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def sections(headings: Sequence[str], sizes: Sequence[int], columns: Sequence[Filled]) -> tuple[Section, ...]:
    """Columns cut into sections of so many rows each."""
    rows = zip(*(column.cells for column in columns), strict=True)
    return tuple(Section(heading, tuple(islice(rows, size))) for heading, size in zip(headings, sizes, strict=True))


def number(value: float | None, decimals: int, significant: int = 0) -> str:
    """A number with so many decimals, or more where it would have fewer significant digits; a dash for None."""
    if value is None:
        return NOTHING
    if value and significant:
        decimals = max(decimals, significant - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def spread(interval: tuple[float, float] | None, decimals: int) -> str:
    """The two ends of an interval in parentheses, nothing for None."""
    return "" if interval is None else f"({interval[0]:.{decimals}f}, {interval[1]:.{decimals}f})"


def published_column(values: Iterable[float | None], write: Callable[[float], str] | None = None) -> list[Filled]:
    """The column of published numbers beside ours, all with the most decimals one of them has; none without numbers."""
    values = list(values)
    known = [value for value in values if value is not None]
    if not known:
        return []
    decimals = max(len(str(value).partition(".")[2]) for value in known)
    write = write or (lambda value: number(value, decimals))
    return [Filled(PAPER, tuple(Cell(NOTHING if value is None else write(value)) for value in values))]


def ranks(values: Sequence[float | None]) -> list[int]:
    """1 for each of the highest, 2 for each of the next, 0 for the others and None; all 0 for fewer than two values."""
    known = [value for value in values if value is not None]
    best = sorted(set(known), reverse=True)[: 2 if len(known) > 1 else 0]
    return [best.index(value) + 1 if value in best else 0 for value in values]
