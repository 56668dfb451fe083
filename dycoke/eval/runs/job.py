"""What `dycoke sweep` tells the processes it starts, and what they tell it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dycoke.eval.runs.experiment import Experiment, load_experiment
from dycoke.eval.runs.specs import RunSpec
from dycoke.lab.record import write_record

JOBS = ".jobs"  # folder of an experiment where the processes at work leave word; .jobs.1: those of a second machine


@dataclass(frozen=True)
class Job:
    """Runs of one model, for one group of processes.

    experiment: its file, name: what it is called; results: the folder of all experiments; runs: ids, in order;
    processes: how many work on it; folder: where they leave word; made: commit, versions and device, without the
    command of a process.
    """

    experiment: str
    name: str
    results: str
    runs: tuple[str, ...]
    processes: int
    folder: str
    made: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> Job:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**content | {"runs": tuple(content["runs"])})

    def write(self) -> Path:
        """Write the job into its folder; the file is what a process is started with."""
        write_record(Path(self.folder) / "job.json", asdict(self))
        return Path(self.folder) / "job.json"

    def load(self) -> tuple[Experiment, list[RunSpec]]:
        """The experiment, from its file, and those of its runs that are to be made."""
        experiment = load_experiment(self.experiment, self.name)
        by_id = {run.id: run for run in experiment.runs}
        return experiment, [by_id[run] for run in self.runs]

    def announce(self, run: str, total: int) -> None:
        """Say which run is under way and how many samples it has."""
        write_record(self._status, {"run": run, "total": total})

    def announced(self) -> tuple[str, int] | None:
        """The run under way and its samples, None before the first."""
        if not self._status.is_file():
            return None
        status = json.loads(self._status.read_text(encoding="utf-8"))
        return status["run"], status["total"]

    def fail(self, rank: int, message: str) -> None:
        """Say why a process gives up."""
        write_record(Path(self.folder) / f"failed.{rank}.json", {"message": message})

    def failures(self) -> Iterator[str]:
        """What the processes that gave up said."""
        for file in sorted(Path(self.folder).glob("failed.*.json")):
            yield json.loads(file.read_text(encoding="utf-8"))["message"]

    @property
    def _status(self) -> Path:
        return Path(self.folder) / "status.json"
