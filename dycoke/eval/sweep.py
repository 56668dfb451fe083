"""`dycoke sweep`: the runs of an experiment that are not complete, in groups that share a loaded model."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

from dycoke.bench.record import circumstances, installed, write_text
from dycoke.eval.experiment import Experiment, load_experiment
from dycoke.eval.folder import EXPERIMENT, RunFolder
from dycoke.eval.job import Job
from dycoke.eval.judging import check_judge
from dycoke.eval.launching import Node, check_launcher, command
from dycoke.eval.progress import Progress
from dycoke.eval.specs import RunSpec, slug

_LOOK_EVERY = 0.5  # seconds
_GRACE = 10  # seconds that processes have to end by themselves


class SweepFailed(ValueError):
    """A run that could not be finished, in one line."""


@dataclass(frozen=True)
class Scale:
    """What the command line says instead of the file's launcher; None: as the file has it."""

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
    machine that does not do; SweepFailed, naming run, task and sample, for a run that could not be finished. What is
    done by then stays on disk, and the next call goes on from there.
    """
    experiment = load_experiment(path)
    runs = [scale.put_on(run) for run in experiment.runs]
    home = results / experiment.name
    pending = [run for run in runs if not _checked(results, run).complete]
    if not pending:
        console.print(f"{experiment.name}: all {len(runs)} runs are complete")
        _keep_copy(path, home)
        return experiment
    for run in pending:
        check_launcher(run.launcher, scale.node)
        if run.score:
            check_judge(run.task, os.environ)
    with _locked(home, scale.node):
        _keep_copy(path, home)
        with Progress(console, results, runs) as progress:
            for _, group in groupby(pending, key=lambda run: run.model):
                _work(experiment, list(group), results, scale.node, progress)
    console.print(f"{experiment.name}: {len(pending)} of {len(runs)} runs made, all are complete")
    return experiment


def _checked(results: Path, run: RunSpec) -> RunFolder:
    folder = RunFolder.of(results, run)
    folder.check(run)
    return folder


def _keep_copy(path: str | Path, home: Path) -> None:
    """Keep the experiment's file beside its runs, for the report."""
    home.mkdir(parents=True, exist_ok=True)
    write_text(home / EXPERIMENT, Path(path).read_text(encoding="utf-8"))


@contextmanager
def _locked(home: Path, node: Node) -> Iterator[None]:
    """Hold the experiment's folder. Raises ValueError if another sweep holds it."""
    home.mkdir(parents=True, exist_ok=True)
    if node.rank > 0:  # the first machine holds it for all
        yield
        return
    with (home / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{home}: another sweep is at work there; wait for it, or stop it") from error
        yield


def _work(experiment: Experiment, runs: list[RunSpec], results: Path, node: Node, progress: Progress) -> None:
    """Start the processes of one model and wait for its runs."""
    logs = results / experiment.name / "logs"
    logs.mkdir(exist_ok=True)
    log = logs / f"{slug(runs[0].model.name)}{f'.{node.rank}' if node.rank else ''}.log"
    folder = tempfile.mkdtemp(prefix="dycoke-sweep-")
    try:
        ids = tuple(run.id for run in runs)
        file = str(results / experiment.name / EXPERIMENT)
        job = Job(file, experiment.name, str(results), ids, runs[0].launcher.count, folder, _made(runs[0]))
        line, environment = command(runs[0].launcher, node, "dycoke.eval.worker", [str(job.write())])
        with log.open("w", encoding="utf-8") as output:
            code = _wait(line, os.environ | environment, output, job, progress)
        if code:
            raise SweepFailed(_reason(job, code, log))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(line: list[str], environment: Mapping[str, str], output: Any, job: Job, progress: Progress) -> int:
    """Run a command to its end, showing how far its job is. However this one ends, so do the processes."""
    process = subprocess.Popen(line, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while process.poll() is None:
            progress.show(job.announced())
            time.sleep(_LOOK_EVERY)
        progress.show(job.announced())
        return process.returncode
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    """End a process and all it has started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(_GRACE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _reason(job: Job, code: int, log: Path) -> str:
    said = next(job.failures(), None)
    if said is None:
        ended = f"signal {-code}" if code < 0 else f"exit code {code}"
        said = f"a process ended without a word ({ended})"
    return f"{said} (log: {log})"


def _made(run: RunSpec) -> dict[str, Any]:
    """Commit, versions, command, and the device of a run's model."""
    made = circumstances(cpu=run.launcher.cpu)
    made["versions"] |= {name: installed(name) for name in ("transformers", "accelerate", "lmms-eval")}
    return made
