"""Two methods of an experiment compared on the same samples, column by column."""

from __future__ import annotations

from dycoke.eval.report.bootstrap import PERCENT, RESAMPLES
from dycoke.eval.report.footnotes import circumstances
from dycoke.eval.report.numbers import difference, score, task_columns
from dycoke.eval.report.results import Group, Results, Row
from dycoke.eval.report.table import Cell, Section, Table, number, spread

_DECIMALS = 2
_TOLD = (
    f"Difference: the first method minus the second; in parentheses its {PERCENT} % interval by the percentile "
    f"bootstrap, {RESAMPLES} draws of the videos, the same ones for both methods."
)


def difference_table(results: Results, one: str, other: str) -> Table:
    """Difference of the scores of the methods labelled `one` and `other`, by model and number of frames.

    Raises ValueError if no model and number of frames has both, or they were scored on other samples.
    """
    pairs = [
        (group, first, second)
        for group in results.groups
        for first in group.rows
        for second in group.rows
        if first.method.label == one and second.method.label == other
    ]
    if not pairs:
        labels = ", ".join(dict.fromkeys(row.method.label for _, row in results.rows))
        raise ValueError(f"difference of {one!r} and {other!r}: expected labels of two rows of one group: {labels}")
    return Table(
        title=f"{results.experiment.title}: {one} minus {other}",
        headers=("Column", one, other, "Difference"),
        sections=tuple(_section(results, *pair) for pair in pairs),
        foot=(_TOLD, *circumstances(results)),
        notes=(),
        runs=tuple(
            (f"{group.heading}, {row.method.label}", tuple(run.id for run in row.runs))
            for group, *rows in pairs
            for row in rows
        ),
    )


def _section(results: Results, group: Group, one: Row, other: Row) -> Section:
    rows = []
    for column in task_columns(results):
        values = score(one, column), score(other, column)
        gap = None if None in values else values[0] - values[1]
        texts = [number(value, _DECIMALS) for value in (*values, gap)]
        ends = spread(difference(one, other, column), _DECIMALS)
        rows.append((Cell(column.column.label), *map(Cell, texts[:2]), Cell(texts[2], beside=ends)))
    return Section(group.heading, tuple(rows))
