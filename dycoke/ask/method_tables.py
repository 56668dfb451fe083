"""The registered methods as text for a terminal: a table of all, and one method in full."""

from __future__ import annotations

import inspect

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dycoke.options import write_value
from dycoke.registry import Entry, available, entry

_NONE = "-"
_SHORT = ("stage", "needs", "positions", "retention")


def methods_list() -> Group:
    """Every method in one table of what is short enough for a terminal, then the rest of each."""
    rows = [entry(name) for name in available()]
    table = Table(box=box.SIMPLE)
    for column in ("name", *_SHORT):
        table.add_column(column, no_wrap=column in ("name", "positions"), overflow="fold")
    for row in rows:
        told = facts(row)
        table.add_row(*map(Text, (row.name, *(told[column] for column in _SHORT))))
    return Group(table, *(part for row in rows for part in _block(row, row.summary)))


def method_page(name: str) -> Group:
    """One method in full. Raises ValueError for an unknown name."""
    row = entry(name)
    paragraphs = (" ".join(paragraph.split()) for paragraph in inspect.getdoc(row.cls).split("\n\n"))
    return Group(*_block(row, "\n".join(paragraphs), *((column, facts(row)[column]) for column in _SHORT)))


def facts(row: Entry) -> dict[str, str]:
    """What the columns of the table say of a method."""
    return {
        "stage": ", ".join(row.stages),
        "needs": ", ".join(row.needs) or _NONE,
        "positions": row.positions,
        "retention": row.retention,
        "official defaults": row.official,
    }


def _block(row: Entry, told: str, *more: tuple[str, str]) -> list[RenderableType]:
    """A name, and under it what is told of its method, these facts, and what is in no column of the short table."""
    more = (*more, ("official defaults", row.official), ("source", row.source), ("paper", row.paper))
    lines = [(label, text) for label, text in (*more, ("released code", row.code)) if text]
    lines += [(f"{option} = {write_value(default)}", meaning) for option, (default, meaning) in row.options.items()]
    lines += [("deviation", deviation) for deviation in row.deviations]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    for label, text in lines:
        grid.add_row(Text(label), Text(text))
    return [Text(row.name, style="bold"), *(Padding(part, (0, 0, 0, 2)) for part in (Text(told), grid))]
