"""The efficiency table of a report, in the layout of the paper's Tables 3 and 4. Times differ from run to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dycoke.eval.report.footnotes import circumstances, state
from dycoke.eval.report.numbers import Published, read_per_step
from dycoke.eval.report.results import Group, Results, Row, Run
from dycoke.eval.report.table import PAPER, Cell, Filled, Notes, Table, number, published_column, sections
from dycoke.report import STAGES

_TOLD = (
    "Times: s/example and the stages are means over the samples, of a batch divided by its rows; total: the sum over "
    "the samples, whatever number of processes shared them. Peak memory: the highest of any sample, on a GPU what was "
    "allocated there, without one the process's. Speed-up: s/example of full with the same model, frames and task, on "
    "the same device, over the method's. Tokens: visual tokens made of a video, those that enter the language model, "
    "and those that its last layer reads in a decode step; means."
)
_KEPT_TOLD = (
    "encoder_cache: vision is the mean over the samples whose video was encoded for them. s/example and total are "
    "without it for all others, and with it for every sample of a method that watches the vision tower."
)
_TOTAL = "total_s"


@dataclass(frozen=True)
class Measure:
    """A column: its key in the records, header, how it is read off a run, and its decimals.

    of: takes the run and the complete run of the uncompressed model on the same task, None without one. paper: the
    column of the published tables, if it is not called like the key.
    """

    key: str
    header: str
    of: Callable[[Run, Run | None], float | None]
    decimals: int
    paper: str | None = None


def efficiency_table(results: Results, paper: Published) -> Table:
    """Seconds, memory and tokens of each method, by model, frames and task, published numbers beside them.

    Those are shown where the experiment has one task, because a published time is that of one benchmark.
    """
    notes = Notes()
    blocks = [
        (group, section, task) for group in results.groups for section in group.sections for task in results.tasks
    ]
    places = [(group, row, row.run_of(task)) for group, section, task in blocks for row in section.rows]
    filled = [Filled("Method", tuple(Cell(row.method.label) for _, row, _ in places))]
    for measure in _MEASURES:
        filled.append(Filled(measure.header, tuple(_cell(measure, place, results, notes) for place in places)))
        filled += published_column(
            (_published(results, paper, group, row, measure) for group, row, _ in places),
            clock if measure.key == _TOTAL else None,
        )
    beside = any(column.header == PAPER for column in filled)
    named = len(results.tasks) > 1
    return Table(
        title=f"{results.experiment.title}: efficiency",
        headers=tuple(column.header for column in filled),
        sections=sections(
            [f"{section.heading}, {task}" if named else section.heading for _, section, task in blocks],
            [len(section.rows) for _, section, _ in blocks],
            filled,
        ),
        foot=(
            _TOLD,
            *([_KEPT_TOLD] if results.experiment.runs[0].model.args.get("encoder_cache") else []),
            *([f"paper: published in {paper.title}, not measured here; memory in GB."] if beside else []),
            *circumstances(results),
        ),
        notes=tuple(notes.texts),
        runs=results.run_ids,
    )


def efficiency_records(results: Results, paper: Published) -> Iterator[dict[str, Any]]:
    """A record for every number of a run: where it stands, value, published value, and the run's id."""
    for group, row in results.rows:
        for run in row.runs:
            for measure in _MEASURES:
                yield {
                    "model": group.model.name,
                    "frames": group.frames,
                    "method": row.method.label,
                    "task": run.spec.task,
                    "column": measure.key,
                    "value": _value(measure, group, run),
                    "published": _published(results, paper, group, row, measure),
                    "samples": run.answered if run.metrics is None else run.samples,
                    "state": state(run, results),
                    "device": None if run.metrics is None else run.metrics["made"]["device"],
                    "run": run.id,
                }


def seconds_per_example(run: Run) -> float:
    return run.metrics["usage"]["seconds"] / run.samples


def peak_gib(run: Run) -> float | None:
    """The highest peak of memory of any sample; None where nothing measured it."""
    peak = run.metrics["usage"]["peak_bytes"]
    return None if peak is None else peak / 2**30


def _value(measure: Measure, group: Group, run: Run) -> float | None:
    return None if run.metrics is None else measure.of(run, group.full_run(run.spec.task))


def _cell(measure: Measure, place: tuple[Group, Row, Run], results: Results, notes: Notes) -> Cell:
    group, _, run = place
    if run.metrics is None:
        return Cell(number(None, 0), notes=(notes.number(state(run, results)),))
    value = _value(measure, group, run)
    if measure.key == _TOTAL:
        return Cell(clock(value))
    full = group.full_run(run.spec.task)
    if measure.key == "speed_up" and value is None and full is not None:
        return Cell(number(None, 0), notes=(notes.number("not on the device of full"),))
    return Cell(number(value, measure.decimals))


def _published(results: Results, paper: Published, group: Group, row: Row, measure: Measure) -> float | None:
    return paper.value(group, row, measure.paper or measure.key) if len(results.tasks) == 1 else None


def clock(seconds: float) -> str:
    """Seconds below a minute, h:mm:ss from there on."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _speed_up(run: Run, full: Run | None) -> float | None:
    """Speed-up over the uncompressed model; None without it, or where it ran on another device."""
    if full is None or full.metrics["made"]["device"] != run.metrics["made"]["device"]:
        return None
    return seconds_per_example(full) / seconds_per_example(run)


def _usage(name: str) -> Callable[[Run, Run | None], float | None]:
    return lambda run, full: run.metrics["usage"][name]


def _stage(name: str) -> Callable[[Run, Run | None], float | None]:
    return lambda run, full: run.metrics["usage"]["ms"][name]


_MEASURES = (
    Measure("seconds_per_example", "s/example", lambda run, full: seconds_per_example(run), 3),
    Measure("speed_up", "Speed-up", _speed_up, 2),
    Measure(_TOTAL, "Total", _usage("seconds"), 1),
    Measure("peak_gib", "Peak memory (GiB)", lambda run, full: peak_gib(run), 2, paper="peak_gb"),
    *(Measure(f"{name}_ms", f"{name} (ms)", _stage(name), 2) for name in ("load", *STAGES)),
    Measure("decode_ms_per_token", "decode (ms/token)", _usage("decode_ms_per_token"), 2),
    Measure("visual_tokens", "Tokens made", _usage("visual_tokens"), 1),
    Measure("visual_kept", "Tokens kept", _usage("visual_kept"), 1),
    Measure("visual_read", "Tokens read a step", lambda run, full: read_per_step(run), 1),
)
