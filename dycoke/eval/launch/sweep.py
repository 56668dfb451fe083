"""`dycoke sweep`: the runs of an experiment that are not complete, in groups that share a loaded model."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

from dycoke.eval.launch.command import Node, check_launcher, command
from dycoke.eval.launch.processes import held, run
from dycoke.eval.launch.progress import Progress
from dycoke.eval.runs.experiment import Experiment, load_experiment
from dycoke.eval.runs.fit import check_rows
from dycoke.eval.runs.folder import EXPERIMENT, RunFolder
from dycoke.eval.runs.job import JOBS, Job
from dycoke.eval.runs.judge import check_judge
from dycoke.eval.runs.specs import RunSpec, slug
from dycoke.lab.interrupts import tell
from dycoke.lab.record import circumstances, installed, write_text

RESULTS = Path("results")  # where a sweep writes and a report looks if nothing else is said
_ROOM = 2**16  # bytes, more than a process writes before it fails


class SweepFailed(ValueError):
    """Error for a run that could not be finished, in one line."""


@dataclass(frozen=True)
class Scale:
    """Launcher settings of the command line, which replace the file's; None: as the file has it."""

    processes: int | None = None
    machines: int | None = None
    port: int | None = None
    node: Node = field(default_factory=Node)

    def put_on(self, spec: RunSpec) -> RunSpec:
        """The run with this launcher, or as it is where one process has all GPUs. Raises ValueError for bad numbers."""
        if spec.launcher.device_map:
            return spec
        given = {name: getattr(self, name) for name in ("processes", "machines", "port")}
        launcher = replace(spec.launcher, **{name: value for name, value in given.items() if value is not None})
        return replace(spec, model=replace(spec.model, launcher=launcher))


def sweep(path: str | Path, results: Path, scale: Scale, console: Console) -> Experiment:
    """Run what is missing of an experiment. Runs that are complete are left alone.

    Raises ValueError and OSError, before anything is loaded where that can be, for a file, a folder of results or a
    machine that does not do, and for methods that do not fit their model; SweepFailed, naming run, task and sample, for
    a run that could not be finished. What is done by then stays on disk, and the next call goes on from there.
    """
    experiment = load_experiment(path)
    runs = [scale.put_on(run) for run in experiment.runs]
    home = results / experiment.name
    pending = [run for run in runs if not _checked(results, run).complete]
    for each in pending:
        if (folder := RunFolder.of(results, each)).damaged:
            _say(console, f"{folder.metrics}: incomplete or damaged; the run is made again")
        check_launcher(each.launcher, scale.node)
        if each.score:
            check_judge(each.task, os.environ)
    check_rows(pending)
    tell(lambda: _left(results, runs))
    # The first machine holds the folder for all.
    with held(home) if scale.node.rank == 0 else nullcontext() as hold, _job_folder(home, scale.node) as folder:
        _keep_copy(path, home)
        with Progress(console, results, runs) as progress:
            for _, group in groupby(pending, key=lambda run: run.model):
                _work(_Work(experiment, list(group), results, scale.node, folder, hold), progress)
    made = f"{len(pending)} of {len(runs)} runs made, " if pending else ""
    where = "" if results == RESULTS else f" --results {shlex.quote(str(results))}"
    _say(console, f"{experiment.name}: {made}all {len(runs)} runs are complete in {home}")
    _say(console, f"tables and plots: dycoke report {experiment.name}{where}")
    return experiment


def _say(console: Console, line: str) -> None:
    """Print a line as it is: paths may look like markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _left(results: Path, runs: Sequence[RunSpec]) -> str:
    """Progress of the runs, by what is on the disk, and how to go on."""
    done = sum(RunFolder.of(results, run).complete for run in runs)
    return f"{done} of {len(runs)} runs complete; the same command goes on"


def _checked(results: Path, run: RunSpec) -> RunFolder:
    folder = RunFolder.of(results, run)
    folder.check(run)
    return folder


def _keep_copy(path: str | Path, home: Path) -> None:
    """Keep the experiment's file beside its runs, for the report."""
    home.mkdir(parents=True, exist_ok=True)
    write_text(home / EXPERIMENT, Path(path).read_text(encoding="utf-8"))


@contextmanager
def _job_folder(home: Path, node: Node) -> Iterator[Path]:
    """Empty folder in which a machine's processes report, as long as they work.

    That of a sweep that was killed makes way for it.
    """
    home.mkdir(parents=True, exist_ok=True)
    folder = (home / f"{JOBS}{_machine(node)}").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _machine(node: Node) -> str:
    """Suffix of a machine's files; "" for the first machine."""
    return f".{node.rank}" if node.rank else ""


@dataclass(frozen=True)
class _Work:
    """The runs of one model; folder: of this machine's jobs; hold: what its processes inherit, if anything."""

    experiment: Experiment
    runs: list[RunSpec]
    results: Path
    node: Node
    folder: Path
    hold: int | None

    def log(self) -> Path:
        logs = self.results / self.experiment.name / "logs"
        logs.mkdir(exist_ok=True)
        return logs / f"{slug(self.runs[0].model.name)}{_machine(self.node)}.log"

    def job(self) -> Job:
        first, name = self.runs[0], self.experiment.name
        ids = tuple(run.id for run in self.runs)
        folder = tempfile.mkdtemp(dir=self.folder)
        file = str(self.results / name / EXPERIMENT)
        return Job(file, name, str(self.results), ids, first.launcher.count, folder, _made(first))


def _work(work: _Work, progress: Progress) -> None:
    """Start the processes of one model and wait for its runs."""
    job, log = work.job(), work.log()
    line, environment = command(work.runs[0].launcher, work.node, "dycoke.eval.launch.worker", [str(job.write())])
    holds = () if work.hold is None else (work.hold,)
    with log.open("w", encoding="utf-8") as output:
        code = run(line, environment, output, holds, lambda: progress.show(job.announced()))
    if code:
        raise SweepFailed(_reason(job, code, log))


def _reason(job: Job, code: int, log: Path) -> str:
    """Error that a process reported, or how it ended without one, and whether the disk is full, a possible cause."""
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    said = next(job.failures(), f"a process ended without a word ({ended})")
    full = _full(log)
    return f"{said} (log: {log})" if full is None else f"{said}; {full} (log: {log})"


def _full(log: Path) -> str | None:
    """Reason why nothing more can be written beside a log; None if it can."""
    try:
        write_text(log.with_name(f"{log.name}.room"), " " * _ROOM)
    except OSError as error:
        return str(error)
    log.with_name(f"{log.name}.room").unlink()
    return None


def _made(run: RunSpec) -> dict[str, Any]:
    """Provenance of a run: commit, versions, command, and the device of its model."""
    made = circumstances(cpu=run.launcher.cpu)
    made["versions"] |= {name: installed(name) for name in ("transformers", "accelerate", "lmms-eval")}
    return made
