"""Worker process of a sweep: one loaded model, its runs one after the other.

    python dycoke/eval/launch/parent_death.py dycoke.eval.launch.worker JOB.json

Several such processes, started by `accelerate launch`, share the samples of each run. Each ends with what started it.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import Any

from dycoke.eval.runs.job import Job
from dycoke.eval.runs.lmms_tasks import default_home
from dycoke.lab.ranks import disband


def main(arguments: list[str] | None = None) -> int:
    """Work through a job. Returns 1, with the reason in the job's folder, if a run could not be finished."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    default_home()
    job = Job.read(path)
    try:
        work(job)
    except (Exception, SystemExit) as error:  # whatever it is, the sweep is to say it in one line; the log has the rest
        kind = "" if isinstance(error, ValueError | OSError | SystemExit) else f"{type(error).__name__}: "
        with suppress(OSError):  # the disk may be full, which the sweep then finds by itself
            job.fail(int(os.environ.get("RANK", "0")), f"{kind}{' '.join(str(error).split())}")
        with suppress(OSError):
            traceback.print_exc()
        return 1
    disband()
    return 0


def work(job: Job) -> None:
    """Load what the runs need, tasks first and the model last, and evaluate one after the other."""
    from dycoke.eval.runs.evaluate import evaluate
    from dycoke.eval.runs.fit import check_rows
    from dycoke.eval.runs.lmms_tasks import load_task, task_manager
    from dycoke.families.sizes import sizes_of

    experiment, specs = job.load()
    manager = task_manager(specs[0].model.id, experiment.include_path)
    tasks = {name: load_task(name, manager) for name in dict.fromkeys(spec.task for spec in specs)}
    model = load_model(specs[0])
    check_rows(specs, sizes_of(model.model))  # the sweep may have known nothing of the model
    started = model.accelerator.num_processes
    if started != job.processes:
        raise ValueError(f"launcher: {job.processes} processes requested, but {started} have started")
    for spec in specs:
        try:
            evaluate(model, spec, tasks[spec.task], manager, job)
        except SystemExit as error:
            raise ValueError(f"{spec.id}: {error}") from error


def load_model(spec: Any) -> Any:
    """The lmms-eval model of a run, on this process's device, with the run's method."""
    from lmms_eval.models import get_model

    arguments: dict[str, Any] = {**spec.model.args, "pretrained": spec.model.checkpoint, "max_frames_num": spec.frames}
    launcher = spec.launcher
    if launcher.cpu:
        arguments["device"] = "cpu"
    if launcher.device_map:
        arguments["device_map"] = launcher.device_map
    if launcher.deepspeed:
        arguments["deepspeed"] = launcher.deepspeed
    model = get_model(spec.model.id)(**arguments, batch_size=spec.batch_size, plan=spec.method.build())
    model.stays = True
    return model


if __name__ == "__main__":
    sys.exit(main())
