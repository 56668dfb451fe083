"""Agreement of an experiment that was made again with another one that has its rows.

    python -m dycoke.eval.report.agreement remade/nano_main results/nano_table1

Rows are the same if model, number of frames and method with its options are; one of the experiments may be limited to
the first samples. They agree where the 95 % intervals of their scores have a value in common. The exit code is 1 if
some do not, and 2 if they cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dycoke.eval.report.footnotes import state
from dycoke.eval.report.numbers import TaskColumn, interval, score, task_columns
from dycoke.eval.report.results import Results, Row, Run, read_results
from dycoke.eval.report.table import Cell, Section, Table, number, spread
from dycoke.eval.report.table_formats import markdown
from dycoke.lab.interrupts import guarded

_DECIMALS = 2
_TOLD = "In parentheses: 95 % interval. A row agrees where both have a value in common."
_ALIKE_TOLD = "Scored alike: samples with the same score in both, of those that both have."


@dataclass(frozen=True)
class Score:
    """A row's score in a column and the ends of its 95 % interval, in the unit of the tables."""

    value: float
    low: float
    high: float

    @property
    def cell(self) -> Cell:
        return Cell(number(self.value, _DECIMALS), beside=spread((self.low, self.high), _DECIMALS))


@dataclass(frozen=True)
class Compared:
    """One row in one column of both experiments; run: its id. alike: samples with the same score, of so many."""

    heading: str
    method: str
    column: str
    run: str
    again: Score
    before: Score
    alike: int
    samples: int

    @property
    def agrees(self) -> bool:
        return self.again.low <= self.before.high and self.before.low <= self.again.high


def compare(again: Results, before: Results) -> list[Compared]:
    """Every row of `again` in every column that counts in a mean, beside the same of `before`.

    Raises ValueError, naming the run, for a row or column that `before` lacks, for a run that is not complete or
    does not say what each sample scored, for runs that ask about videos in another order, and for runs of equally many
    samples that asked something else. Of a part it is not known whether the whole asked the same: the share of samples
    scored alike tells.
    """
    there = {_identity(row): row for _, row in before.rows}
    known = {(column.task, column.column.key) for column in task_columns(before)}
    columns = [column for column in task_columns(again) if column.column.averaged]
    missing = [column.column.key for column in columns if (column.task, column.column.key) not in known]
    if not columns:
        raise ValueError(f"{again.experiment.name} has no column that counts in a mean")
    if missing:
        raise ValueError(f"{before.experiment.name} has no column {', '.join(missing)}")
    found = []
    for group, row in again.rows:
        if _identity(row) not in there:
            raise ValueError(f"{row.runs[0].id}: not a row of {before.experiment.name}")
        other = there[_identity(row)]
        found += [
            Compared(
                group.heading,
                row.method.label,
                column.column.label,
                row.run_of(column.task).id,
                _score(row, column, again),
                _score(other, column, before),
                *_alike(row.run_of(column.task), other.run_of(column.task), column),
            )
            for column in columns
        ]
    return found


def table(compared: list[Compared], title: str) -> Table:
    """Table of what was compared, a section for each model and number of frames."""
    headings = dict.fromkeys(each.heading for each in compared)
    return Table(
        title=title,
        headers=("Method", "Column", "Made again", "Before", "Scored alike", "Agrees"),
        sections=tuple(
            Section(heading, tuple(_row(each) for each in compared if each.heading == heading)) for heading in headings
        ),
        foot=(_TOLD, _ALIKE_TOLD),
        notes=(),
        runs=tuple((f"{each.heading}, {each.method}", (each.run,)) for each in compared),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("again", type=Path, help="folder of the experiment that was made again")
    parser.add_argument("before", type=Path, help="folder of the experiment it is compared with")
    given = parser.parse_args(arguments)
    try:
        again, before = (read_results(folder.name, folder.parent) for folder in (given.again, given.before))
        compared = compare(again, before)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(markdown(table(compared, f"{given.again} and {given.before}")))
    differing = [f"{each.method} ({each.column})" for each in compared if not each.agrees]
    if differing:
        print(f"{len(differing)} of {len(compared)} do not agree: {', '.join(differing)}")
    else:
        print(f"All {len(compared)} agree.")
    return 1 if differing else 0


def _identity(row: Row) -> tuple[str, int, str]:
    spec = row.runs[0].spec
    return spec.model.name, spec.frames, spec.method.slug


def _score(row: Row, column: TaskColumn, results: Results) -> Score:
    run = row.run_of(column.task)
    if run.metrics is None:
        raise ValueError(f"{results.experiment.name}/{run.id}: {state(run, results)}")
    ends = interval(row, column)
    if ends is None:
        raise ValueError(f"{results.experiment.name}/{run.id}: no interval of {column.column.label}")
    return Score(score(row, column), *ends)


def _alike(again: Run, before: Run, column: TaskColumn) -> tuple[int, int]:
    """Number of samples with the same score in both runs, and of those in both."""
    alike, samples = 0, 0
    same_size = again.metrics["samples"] == before.metrics["samples"]
    if same_size and again.metrics["fingerprint"] != before.metrics["fingerprint"]:
        raise ValueError(f"{again.id}: the two experiments asked about different videos, or put other questions")
    for one, other in _leaves(again, before, column):
        both = min(len(one["clusters"]), len(other["clusters"]))
        if one["clusters"][:both] != other["clusters"][:both]:
            raise ValueError(f"{again.id}: the two experiments asked about different videos")
        pairs = zip(*(each["values"][column.column.metric][:both] for each in (one, other)), strict=True)
        alike += sum(first == second for first, second in pairs)
        samples += both
    return alike, samples


def _leaves(again: Run, before: Run, column: TaskColumn) -> Iterator[tuple[dict, dict]]:
    ours, theirs = (column.column.of(run.metrics["scored"]) for run in (again, before))
    return ((ours[leaf], theirs[leaf]) for leaf in ours)


def _row(each: Compared) -> tuple[Cell, ...]:
    told = Cell(f"{each.alike} of {each.samples}"), Cell("yes" if each.agrees else "no")
    return (Cell(each.method), Cell(each.column), each.again.cell, each.before.cell, *told)


if __name__ == "__main__":
    sys.exit(guarded(main, last=True))
