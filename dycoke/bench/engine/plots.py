"""Plots of records of `dycoke bench engine`: milliseconds by stage, tokens per second against rows, memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dycoke.bench.engine.setting import OURS
from dycoke.lab.figures import MARKERS, PANEL, check_matplotlib, new_figure, plain, write_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = dict[str, Any]
Panel = Callable[["Axes", Record], None]
_BENCHMARK = "engine"  # what a record says it is
_STAGES = ("vision", "compress", "prefill", "decode", "rest")  # each keeps its colour


def draw(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write the plots that the records have something for; the files written, the same bytes for the same records.

    Raises ValueError for a file that is not a record of this benchmark, where none has anything to draw, and where
    matplotlib is missing; nothing is written then.
    """
    check_matplotlib()
    records = [_read(path) for path in paths]
    figures = {
        "stages": _figure(records, {"first_token": _stage_bars, "answer": _stage_bars}),
        "batch": _figure(records, {"batch": _rates}),
        "memory": _figure(records, {"memory": _peaks}),
    }
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    if not drawn:
        raise ValueError("nothing to draw: no record has one of the parts first_token, answer, batch and memory")
    return [path for name, figure in drawn.items() for path in write_plot(folder, name, figure)]


def _read(path: Path) -> Record:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(record, dict) or record.get("benchmark") != _BENCHMARK:
        raise ValueError(f"{path}: expected a record that `dycoke bench engine --json` wrote")
    return record


def _figure(records: Sequence[Record], panels: dict[str, Panel]) -> Figure | None:
    """Figure with a panel for each part of a record that did not fail, side by side; None where there is none."""
    found = [(record, part) for record in records for part in panels if "failed" not in record.get(part, {"failed": 1})]
    if not found:
        return None
    figure = new_figure(1, len(found), height=PANEL[1] + 0.8)
    for axes, (record, part) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        panels[part](axes, record[part])
        axes.set_title(plain(_heading(record)), fontsize="small")
    return figure


def _heading(record: Record) -> str:
    setting = record["setting"]
    commit = (record["commit"] or "unknown commit")[:9]
    said = f"{setting['shape']}, {setting['dtype']}, {setting['frames']} frames, dycoke K={setting['k']} "
    return f"{said}L={setting['l']} P={setting['p']}\n{record['device']}, {commit}"


def _stage_bars(axes: Axes, measured: Record) -> None:
    rows = measured["results"]
    left = [0.0] * len(rows)
    for number, stage in enumerate(_STAGES):
        values = [row["shares"].get(stage, 0.0) * row["median_ms"] for row in rows]
        if any(values):
            axes.barh(range(len(rows)), values, left=left, label=stage, color=f"C{number}")
            left = [start + value for start, value in zip(left, values, strict=True)]
    for place, (row, end) in enumerate(zip(rows, left, strict=True)):
        axes.text(end, place, f" {row['median_ms']:.0f}", va="center", fontsize="small")
    axes.set_yticks(range(len(rows)), labels=[plain(row["version"]) for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    answer = measured["answer"]
    axes.set_xlabel("ms to the first token" if answer == 1 else f"ms, answer of {answer} tokens")
    axes.legend(fontsize="small")


def _rates(axes: Axes, measured: Record) -> None:
    lines: dict[str, list[tuple[int, float, float | None]]] = {}
    for batch in measured["batches"]:
        for row in batch["results"]:
            floor = None if row["floor_ms"] is None else batch["rows"] * 1e3 / row["floor_ms"]
            lines.setdefault(row["version"], []).append((batch["rows"], row["tokens_per_s"], floor))
    for number, (version, points) in enumerate(lines.items()):
        rows, rates, bounds = zip(*sorted(points), strict=True)
        axes.plot(rows, rates, marker=MARKERS[number % len(MARKERS)], color=f"C{number}", label=plain(version))
        if version.startswith(OURS) and None not in bounds:
            axes.plot(rows, bounds, linestyle=":", color=f"C{number}", label=plain(f"{version}, byte floor"))
    counts = [batch["rows"] for batch in measured["batches"]]
    axes.set(xscale="log", yscale="log", xlabel="Rows", ylabel="Decoded tokens/s")
    axes.set_xticks(counts, labels=list(map(str, counts)))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")


def _peaks(axes: Axes, measured: Record) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in measured["results"]:
        if row.get("peak_bytes") is not None:
            lines.setdefault(row["version"], []).append((row["frames"], row["peak_bytes"] / 2**30))
    for number, (version, points) in enumerate(lines.items()):
        frames, peaks = zip(*sorted(points), strict=True)
        axes.plot(frames, peaks, marker=MARKERS[number % len(MARKERS)], label=plain(version))
    axes.axhline(measured["weights_bytes"] / 2**30, linestyle=":", color="gray", label="weights")
    axes.set(xlabel="Frames", ylabel="Peak memory (GiB)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
