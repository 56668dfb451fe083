"""Results read from an experiment's folder: a run for each row and task, complete or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from dycoke.eval.runs.experiment import Experiment, load_experiment
from dycoke.eval.runs.folder import EXPERIMENT, METRICS, RunFolder
from dycoke.eval.runs.specs import MethodSpec, ModelSpec, RunSpec

FULL = "full"  # the method that the others are compared with


@dataclass(frozen=True)
class Run:
    """A run and its metrics, None unless it is complete; answered: the samples on disk of one that is not."""

    spec: RunSpec
    metrics: Mapping[str, Any] | None
    answered: int = 0

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def samples(self) -> int:
        """Number of samples a complete run answered, over its leaf tasks."""
        return sum(self.metrics["samples"].values())


@dataclass(frozen=True)
class Row:
    """A method with one model and number of frames; runs: one for each task, in the order of the experiment."""

    method: MethodSpec
    runs: tuple[Run, ...]

    @property
    def complete(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.metrics is not None)

    def run_of(self, task: str) -> Run:
        """The run behind its cells of a task."""
        return next(run for run in self.runs if run.spec.task == task)

    @property
    def is_full(self) -> bool:
        return self.method.name == FULL


@dataclass(frozen=True)
class Section:
    """The rows that are compared with each other, under one heading."""

    heading: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Group:
    """The rows of one model and number of frames, those of a section together."""

    model: ModelSpec
    frames: int
    rows: tuple[Row, ...]

    @property
    def heading(self) -> str:
        return f"{self.model.name}, {self.frames} frames"

    @property
    def sections(self) -> tuple[Section, ...]:
        """The rows by section, in the order in which the file names them; one where it names none."""
        return tuple(
            Section(f"{self.heading}: {name}" if name else self.heading, tuple(rows))
            for name, rows in groupby(self.rows, key=lambda row: row.method.section)
        )

    @property
    def full(self) -> Row | None:
        """The row of the uncompressed model, if there is one."""
        return next((row for row in self.rows if row.is_full), None)

    def full_run(self, task: str) -> Run | None:
        """The complete run of the uncompressed model on a task."""
        run = None if self.full is None else self.full.run_of(task)
        return None if run is None or run.metrics is None else run


@dataclass(frozen=True)
class Results:
    """An experiment and its runs: groups by model and ascending frames, rows in the order of their sections and of the
    file.
    """

    experiment: Experiment
    groups: tuple[Group, ...]

    @property
    def rows(self) -> tuple[tuple[Group, Row], ...]:
        """Every row with its group, from the first group's on."""
        return tuple((group, row) for group in self.groups for row in group.rows)

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sections of all groups, which have the rows in the same order."""
        return tuple(section for group in self.groups for section in group.sections)

    @property
    def run_ids(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Labels of the rows, each with the ids of its runs."""
        return tuple(
            (f"{group.heading}, {row.method.label}", tuple(run.id for run in row.runs)) for group, row in self.rows
        )

    @property
    def runs(self) -> Iterator[Run]:
        return (run for _, row in self.rows for run in row.runs)

    @property
    def complete(self) -> Iterator[Run]:
        return (run for run in self.runs if run.metrics is not None)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run.task for run in self.experiment.runs))

    def example(self, task: str) -> Run | None:
        """The first complete run of a task."""
        return next((run for run in self.complete if run.spec.task == task), None)


def read_results(experiment: str, results: Path) -> Results:
    """The results of an experiment, named by its folder under `results` or by its YAML file.

    Raises ValueError of one line if there are none, if a folder holds another run than the experiment asks for, if its
    files cannot be read, and if runs of one task differ in their samples or prompts.
    """
    name = Path(experiment).stem if experiment.endswith((".yaml", ".yml")) else experiment
    file = results / name / EXPERIMENT
    if not file.is_file():
        swept = ", ".join(sorted(path.parent.name for path in results.glob(f"*/{EXPERIMENT}"))) or "none"
        raise ValueError(f"{experiment}: no experiment was swept into {results / name}; those in {results}: {swept}")
    loaded = load_experiment(file, name)
    runs = [_read_run(results, spec) for spec in loaded.runs]
    _refuse_mixture(runs)
    return Results(loaded, tuple(_groups(runs)))


def _read_run(results: Path, spec: RunSpec) -> Run:
    folder = RunFolder.of(results, spec)
    folder.check(spec)
    if not folder.metrics.is_file():
        return Run(spec, None, len(folder.read_samples()))
    metrics = folder.read_metrics()
    missing = [key for key in METRICS if not isinstance(metrics, Mapping) or key not in metrics]
    if missing:
        raise ValueError(f"{folder.metrics}: {', '.join(missing)} missing")
    if metrics["run"] != spec.id:
        raise ValueError(f"{folder.metrics}: metrics of {metrics['run']}; expected those of {spec.id}")
    if not folder.config.is_file():
        raise ValueError(f"{folder.config}: no such file; expected the config of the run")
    return Run(spec, metrics)


def _refuse_mixture(runs: list[Run]) -> None:
    """Raise ValueError if complete runs of one task answered other samples or were asked in other words."""
    first: dict[str, Run] = {}
    for run in runs:
        if run.metrics is None:
            continue
        other = first.setdefault(run.spec.task, run)
        for part, told in (("data", "samples"), ("prompts", "prompts")):
            if run.metrics["fingerprint"][part] != other.metrics["fingerprint"][part]:
                raise ValueError(
                    f"{run.spec.task}: {other.id} and {run.id} had different {told}; one column cannot hold both"
                )


def _groups(runs: list[Run]) -> Iterator[Group]:
    models = list(dict.fromkeys(run.spec.model.name for run in runs))

    def of_group(run: Run) -> tuple[int, int]:
        return models.index(run.spec.model.name), run.spec.frames

    for _, members in groupby(sorted(runs, key=of_group), key=of_group):
        members = list(members)
        rows = [Row(method, tuple(row)) for method, row in groupby(members, key=lambda run: run.spec.method)]
        order = list(dict.fromkeys(row.method.section for row in rows))
        rows.sort(key=lambda row: order.index(row.method.section))
        yield Group(members[0].spec.model, members[0].spec.frames, tuple(rows))
