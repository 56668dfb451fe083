"""The main table of a report, in the layout of the paper's Table 1, and the records that its cells are traced by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dycoke.eval.report.bootstrap import PERCENT, RESAMPLES
from dycoke.eval.report.footnotes import circumstances, state
from dycoke.eval.report.numbers import (
    COSTS,
    Published,
    TaskColumn,
    interval,
    overall,
    row_cost,
    run_cost,
    score,
    stderr,
    task_columns,
)
from dycoke.eval.report.results import Results, Row, Run
from dycoke.eval.report.table import (
    NOTHING,
    PAPER,
    Cell,
    Filled,
    Notes,
    Table,
    number,
    published_column,
    ranks,
    sections,
    spread,
)

_COSTS = {  # header, decimals
    "retained_mean": ("Retained ratio (mean, %)", 2),
    "retained_final": ("Retained ratio (final, %)", 2),
    "flops_t": ("FLOPs (T)", 2),
    "flops_ratio": ("FLOPs ratio (%)", 1),
    "true_flops_t": ("True FLOPs (T)", 2),
    "kv_mib": ("KV (MiB)", 1),
}
_SIGNIFICANT = 3  # digits of a cost: the embedded model's are far below one T
_DECIMALS = 2  # of scores
_ENDS = 1  # decimals of the ends of their intervals
_COSTS_TOLD = (
    "Retained ratio: share of the visual tokens, mean: that enters a layer in prefill, as a mean over the layers; "
    "final: that the last layer reads in a decode step. FLOPs: formula (A) of the paper, T multiply-adds of the visual "
    "tokens' prefill and of 100 decoded tokens; ratio: to the row of full with the same model and frames. True FLOPs: "
    "T operations of the prefill with its text, twice formula (B). KV: the visual tokens' keys and values behind "
    "prefill, at 16 bits. All follow from the tokens that were counted in the runs, and are means over the tasks."
)
_RANKS_TOLD = (
    "Bold: the best of the methods other than full under one heading, by our values as printed; underlined: the "
    "second; ties share. Tasks for which more is not known to be better are not marked."
)
_INTERVALS_TOLD = (
    f"In parentheses: {PERCENT} % interval by the percentile bootstrap, {RESAMPLES} draws of the videos, each with all "
    "its questions. `dycoke report --difference` compares two methods video by video, which tells more than whether "
    "their intervals overlap."
)


def main_table(results: Results, paper: Published) -> Table:
    """Costs and scores of each method, ours and beside them the published ones.

    Raises ValueError if a complete run has no number for a metric of its task.
    """
    notes = Notes()
    columns = task_columns(results)
    filled = [Filled("Method", tuple(Cell(row.method.label) for _, row in results.rows))]
    for name in COSTS:
        filled += [_cost_column(results, name, notes), *_published(results, paper, name)]
    for column in columns:
        filled += [_score_column(results, column, notes), *_published(results, paper, column.column.key)]
    averaged = sum(column.column.averaged for column in columns)
    if averaged > 1:
        filled.append(_mean_column(results, columns))
    told = [_COSTS_TOLD, *([_RANKS_TOLD] if columns else [])]
    if averaged > 1:
        told.append("Mean: of the columns in percent, each with the same weight, where a row has all of them.")
    if any(cell.beside for column in filled for cell in column.cells):
        told.append(_INTERVALS_TOLD)
    if any(column.header == PAPER for column in filled):
        told.append(f"paper: published in {paper.title}, not measured here.")
    if paper.missing:
        told.append(f"Not in {paper.title}: {', '.join(paper.missing)}.")
    return Table(
        title=results.experiment.title,
        headers=tuple(column.header for column in filled),
        sections=sections(
            [section.heading for section in results.sections],
            [len(section.rows) for section in results.sections],
            filled,
        ),
        foot=(*told, *circumstances(results)),
        notes=tuple(notes.texts),
        runs=results.run_ids,
    )


def main_records(results: Results, paper: Published) -> Iterator[dict[str, Any]]:
    """A record for every number of a run: where it stands, value, error, interval, published value, and the run's id.

    Costs are those of the single run, where the table has their mean over the tasks.
    """
    columns = task_columns(results)
    for group, row in results.rows:
        for run in row.runs:
            place = {
                "model": group.model.name,
                "frames": group.frames,
                "method": row.method.label,
                "task": run.spec.task,
            }
            origin = _origin(run, results)
            cost = None if run.metrics is None else run_cost(run, group.full_run(run.spec.task))
            for name in COSTS:
                given = {"value": None if cost is None else getattr(cost, name), **_uncertainty(None, None)}
                yield place | {"column": name} | given | {"published": paper.value(group, row, name)} | origin
            for column in (column for column in columns if column.task == run.spec.task):
                given = {"value": score(row, column), **_uncertainty(stderr(row, column), interval(row, column))}
                key = column.column.key
                yield place | {"column": key} | given | {"published": paper.value(group, row, key)} | origin


def _uncertainty(error: float | None, ends: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = ends or (None, None)
    return {"stderr": error, "low": low, "high": high}


def _origin(run: Run, results: Results) -> dict[str, Any]:
    samples = run.answered if run.metrics is None else run.samples
    return {"samples": samples, "state": state(run, results), "run": run.id}


def _cost_column(results: Results, name: str, notes: Notes) -> Filled:
    header, decimals = _COSTS[name]
    cells = []
    for group, row in results.rows:
        text = number(row_cost(group, row)[name], decimals, _SIGNIFICANT)
        missing = () if row.complete else (notes.number(state(row.runs[0], results)),)
        cells.append(Cell(text, notes=missing))
    return Filled(header, tuple(cells))


def _score_column(results: Results, column: TaskColumn, notes: Notes) -> Filled:
    texts = [number(score(row, column), _DECIMALS) for _, row in results.rows]
    noted = [_score_notes(row.run_of(column.task), results, notes) for _, row in results.rows]
    marks = _ranks(results, texts) if column.ranked else [0] * len(texts)
    ends = [spread(interval(row, column), _ENDS) for _, row in results.rows]
    return Filled(column.column.label, tuple(map(Cell, texts, marks, noted, ends)))


def _score_notes(run: Run, results: Results, notes: Notes) -> tuple[int, ...]:
    return (notes.number(state(run, results)),) if run.metrics is None else ()


def _mean_column(results: Results, columns: Sequence[TaskColumn]) -> Filled:
    texts = [number(overall(row, columns), _DECIMALS) for _, row in results.rows]
    return Filled("Mean (%)", tuple(map(Cell, texts, _ranks(results, texts))))


def _published(results: Results, paper: Published, key: str) -> list[Filled]:
    return published_column(paper.value(group, row, key) for group, row in results.rows)


def _ranks(results: Results, texts: Sequence[str]) -> list[int]:
    """Ranks within each section, among the methods other than full, of numbers as they are printed."""
    found: list[int] = []
    for section in results.sections:
        found += ranks([_ranked(row, text) for row, text in zip(section.rows, texts[len(found) :], strict=False)])
    return found


def _ranked(row: Row, text: str) -> float | None:
    return None if row.is_full or text == NOTHING else float(text)
