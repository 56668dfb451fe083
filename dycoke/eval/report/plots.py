"""Plots of a report: bars of score, memory and latency; score against frames; score against what is retained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dycoke.eval.report.efficiency_table import peak_gib
from dycoke.eval.report.numbers import TaskColumn, overall, row_cost, task_columns
from dycoke.eval.report.results import Group, Results, Row
from dycoke.eval.runs.specs import MethodSpec
from dycoke.lab.figures import MARKERS, PANEL, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = dict[str, list[tuple[float, float]]]  # by label
Panels = dict[str, Lines]  # by heading


def bars(results: Results) -> Figure | None:
    """Score, peak memory and latency of each method, a row of panels for each model and number of frames.

    As in the paper's figure 1. None where no row has any of them; what was not measured is marked so.
    """
    columns = task_columns(results)
    panels: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
        (_score_label(columns), lambda row: overall(row, columns)),
        ("Peak memory (GiB)", _peak),
        ("Latency (s/example)", _latency),
    )
    groups = [group for group in results.groups if any(of(row) is not None for row in group.rows for _, of in panels)]
    if not groups:
        return None
    tallest = max(len(group.rows) for group in groups)
    figure = new_figure(len(groups), len(panels), height=max(PANEL[1], 0.8 + 0.32 * tallest))
    for group, line in zip(groups, figure.subplots(len(groups), len(panels), squeeze=False), strict=True):
        for axes, (label, of) in zip(line, panels, strict=True):
            _bar_panel(axes, group, label, of)
    figure.suptitle(plain(results.experiment.title))
    return figure


def score_against_frames(results: Results) -> Figure | None:
    """A curve for each method over the numbers of frames, a panel per model; as in the paper's figure 5.

    None where no method was scored at two numbers of frames.
    """
    columns = task_columns(results)
    panels: Panels = {}
    labels: dict[str, str] = {}  # of a method at its first number of frames; labels may name these
    for group in results.groups:
        lines = panels.setdefault(group.model.name, {})
        for row in group.rows:
            label = labels.setdefault(row.method.slug, row.method.label)
            _add(lines, label, group.frames, overall(row, columns))
    panels = _kept(panels, lambda lines: any(len(points) > 1 for points in lines.values()))
    if not panels:
        return None
    figure = _curves(panels, "Frames", _score_label(columns), results.experiment.title)
    counts = sorted({group.frames for group in results.groups})
    for axes in figure.axes:
        axes.set_xticks(counts, labels=list(map(str, counts)))
    return figure


def score_against_retention(results: Results) -> Figure | None:
    """A line for each family of methods (same name, other numbers) over the retained ratio, a panel for each group.

    None where no group has two rows with both.
    """
    columns = task_columns(results)
    panels: Panels = {}
    for group in results.groups:
        lines = panels.setdefault(group.heading, {})
        for row in group.rows:
            retained = row_cost(group, row)["retained_final"]
            if retained is not None:
                _add(lines, _family(row.method), retained, overall(row, columns))
    panels = _kept(panels, lambda lines: sum(map(len, lines.values())) > 1)
    if not panels:
        return None
    figure = _curves(panels, "Retained ratio (final, %)", _score_label(columns), results.experiment.title)
    for axes in figure.axes:
        axes.set_xlim(0, 105)
    return figure


def _family(method: MethodSpec) -> str:
    """Name of the method and of its options that are a choice, not a number, as decode=random; a plan's label."""
    if method.name is None:
        return method.label
    return " ".join(
        [method.name, *(f"{key}={value}" for key, value in method.options.items() if isinstance(value, str))]
    )


def _kept(panels: Panels, worth: Callable[[Lines], bool]) -> Panels:
    return {heading: lines for heading, lines in panels.items() if worth(lines)}


def _add(lines: Lines, label: str, x: float, y: float | None) -> None:
    if y is not None:
        lines.setdefault(label, []).append((x, y))


def _curves(panels: Panels, across: str, up: str, title: str) -> Figure:
    figure = new_figure(1, len(panels), height=PANEL[1] + 0.8)
    for axes, (heading, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for place, (label, points) in enumerate(lines.items()):
            across_values, up_values = zip(*sorted(points), strict=True)
            marker = MARKERS[place % len(MARKERS)]
            axes.plot(across_values, up_values, marker=marker, label=plain(label))
        axes.set(title=plain(heading), xlabel=across, ylabel=plain(up))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.suptitle(plain(title))
    return figure


def _bar_panel(axes: Axes, group: Group, label: str, of: Callable[[Row], float | None]) -> None:
    values = [of(row) for row in group.rows]
    places = range(len(group.rows))
    if any(value is not None for value in values):
        drawn = axes.barh(places, [value or 0 for value in values], color="tab:blue")
        axes.bar_label(drawn, ["-" if value is None else f"{value:.3g}" for value in values], padding=3)
        axes.margins(x=0.2)
    else:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center")
        axes.set_xticks([])
    axes.set_yticks(places, labels=[plain(row.method.label) for row in group.rows])
    axes.set_ylim(len(group.rows) - 0.5, -0.5)  # the first method on top
    axes.set(title=plain(group.heading), xlabel=plain(label))


def _score_label(columns: Sequence[TaskColumn]) -> str:
    percent = [column.column.label for column in columns if column.column.averaged]
    if len(percent) > 1:
        return f"Mean score over {len(percent)} columns (%)"
    return f"{percent[0]} (%)" if percent else columns[0].column.label if columns else "Score"


def _peak(row: Row) -> float | None:
    peaks = [peak for peak in map(peak_gib, row.complete) if peak is not None]
    return max(peaks, default=None)


def _latency(row: Row) -> float | None:
    """Seconds per example over all tasks; None unless all are there, because tasks take different times."""
    if len(row.complete) < len(row.runs):
        return None
    return sum(run.metrics["usage"]["seconds"] for run in row.runs) / sum(run.samples for run in row.runs)
