"""The numbers of a report: scores, costs and times of runs and rows, and the published ones beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

from dycoke.eval.benchmarks import BENCHMARKS, Column, columns_of, value
from dycoke.eval.report import bootstrap
from dycoke.eval.report.published import published, published_table
from dycoke.eval.report.results import Group, Results, Row, Run
from dycoke.eval.runs.sample_scores import Scored
from dycoke.lab.cost import Tokens, formula_a, kv_bytes, measured, retained, retained_final, true_flops
from dycoke.model_shape import Shape
from dycoke.types import Plan


@dataclass(frozen=True)
class Cost:
    """What a run, or a row as a mean over its runs, costs by arithmetic on the tokens it read.

    retained_mean: percent of the visual tokens that enter a layer in prefill, as a mean over the layers;
    retained_final: percent of them that the last layer reads in a decode step; both None without a video;
    flops_t: T multiply-adds by formula (A); flops_ratio: percent of the uncompressed model's, None without it;
    true_flops_t: T operations of the prefill, text included; kv_mib: of the visual tokens, at 16 bits.
    """

    retained_mean: float | None
    retained_final: float | None
    flops_t: float
    flops_ratio: float | None
    true_flops_t: float
    kv_mib: float


COSTS = tuple(field.name for field in fields(Cost))


@dataclass(frozen=True)
class TaskColumn:
    """A column of a table: one metric of one task."""

    task: str
    column: Column

    @property
    def ranked(self) -> bool:
        """Whether more is known to be better."""
        return self.task in BENCHMARKS


def task_columns(results: Results) -> tuple[TaskColumn, ...]:
    """The columns of all tasks, in the order of the experiment; none where nothing is scored."""
    columns = []
    for task in results.tasks if all(run.score for run in results.experiment.runs) else ():
        example = results.example(task)
        found = columns_of(task, example.metrics["scores"] if example else {})
        columns += [TaskColumn(task, column) for column in found or (Column(task, "", task, percent=False),)]
    return tuple(columns)


def score(row: Row, column: TaskColumn) -> float | None:
    """A row's value of a column in the paper's unit, None unless its run is complete."""
    run = row.run_of(column.task)
    return None if run.metrics is None else value(column.column, run.metrics["scores"])


def stderr(row: Row, column: TaskColumn) -> float | None:
    """The standard error of `score`, that of a mean over independent leaf tasks; None where one of them has none."""
    metrics = row.run_of(column.task).metrics
    leaves = [] if metrics is None else column.column.of(metrics["scores"]).values()
    errors = [leaf.get(f"{column.column.metric}_stderr") for leaf in leaves]
    if not errors or not all(isinstance(error, int | float) for error in errors):
        return None
    return column.column.scale * math.hypot(*errors) / len(errors)


def interval(row: Row, column: TaskColumn) -> tuple[float, float] | None:
    """The 95 % interval of `score` over videos; None where a run does not say what each sample scored."""
    found = bootstrap.interval(_scored(row, column), column.column.metric)
    return None if found is None else tuple(column.column.scale * bound for bound in found)


def difference(one: Row, other: Row, column: TaskColumn) -> tuple[float, float] | None:
    """The 95 % interval of how much higher `score` is in one row than in another, on the same videos; None as above.

    Raises ValueError if the two were scored on other samples.
    """
    found = bootstrap.difference(_scored(one, column), _scored(other, column), column.column.metric)
    return None if found is None else tuple(column.column.scale * bound for bound in found)


def _scored(row: Row, column: TaskColumn) -> Scored:
    """What each sample of a column's leaf tasks scored; empty unless that is known of all of them."""
    metrics = row.run_of(column.task).metrics
    if metrics is None:
        return {}
    scored, leaves = metrics.get("scored", {}), column.column.of(metrics["scores"])
    return column.column.of(scored) if leaves.keys() <= scored.keys() else {}


def overall(row: Row, columns: Iterable[TaskColumn]) -> float | None:
    """The mean of a row's percentages, None unless all are there; a lone column of another unit stands for itself.

    What is a part of another column is not counted again.
    """
    columns = tuple(columns)
    chosen = [column for column in columns if column.column.averaged] or (columns if len(columns) == 1 else ())
    scores = [score(row, column) for column in chosen]
    return fmean(scores) if scores and None not in scores else None


def tokens_of(run: Run) -> Tokens:
    """Visual tokens that each layer read in a complete run."""
    built = run.spec.method.build()
    plan = built if isinstance(built, Plan) else built.plan()
    return measured(run.metrics["usage"], run.metrics["shape"]["layers"], plan)


def run_cost(run: Run, full: Run | None) -> Cost:
    """Cost of a complete run; full: the complete run of the uncompressed model on the same task, if there is one."""
    shape, usage, tokens = Shape.of(run.metrics["shape"]), run.metrics["usage"], tokens_of(run)
    flops = formula_a(shape, tokens)
    whole = None if full is None else formula_a(Shape.of(full.metrics["shape"]), tokens_of(full))
    made = usage["visual_tokens"]
    return Cost(
        retained_mean=100 * retained(tokens, made) if made else None,
        retained_final=100 * retained_final(tokens, made) if made else None,
        flops_t=flops / 1e12,
        flops_ratio=None if whole is None else 100 * flops / whole,
        true_flops_t=true_flops(shape, tokens, usage["prompt_tokens"] - usage["visual_kept"]) / 1e12,
        kv_mib=kv_bytes(shape, tokens) / 2**20,
    )


def row_cost(group: Group, row: Row) -> Mapping[str, float | None]:
    """Each cost of a row, a mean over those of its complete runs that have one; None where none has."""
    costs = [run_cost(run, group.full_run(run.spec.task)) for run in row.complete]
    known = {name: [cost for cost in (getattr(each, name) for each in costs) if cost is not None] for name in COSTS}
    return {name: fmean(values) if values else None for name, values in known.items()}


def read_per_step(run: Run) -> float:
    """Visual tokens that the last layer reads in a decode step."""
    return tokens_of(run).decode[-1]


class Published:
    """The published numbers of an experiment's table; none if it names no table.

    title: the table's. missing: the rows' keys that it has for no model. Raises ValueError for an unknown table.
    """

    def __init__(self, results: Results) -> None:
        self._table = results.experiment.paper
        content: Mapping[str, Any] = {} if self._table is None else published_table(self._table)
        self.title: str | None = content.get("title")
        self._frames: int | None = content.get("frames")
        there = {row for rows in content.get("models", {}).values() for row in rows}
        asked = dict.fromkeys(row.method.paper for _, row in results.rows if content and row.method.paper is not None)
        self.missing: tuple[str, ...] = tuple(key for key in asked if key not in there)

    def value(self, group: Group, row: Row, column: str) -> float | None:
        """The number beside a cell; None where the paper has none, or has it for another number of frames."""
        if self._table is None or row.method.paper is None or self._frames not in (None, group.frames):
            return None
        return published(self._table, group.model.pretrained, row.method.paper, column)
