"""Time that making experiments again takes, estimated from those that are there.

    python -m dycoke.eval.report.duration --processes 2 --again remade results/nano_table1 results/nano_table5

The seconds that all samples took are shared among the processes, each of which needs a core, or a GPU, of its own.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from dycoke.eval.report.efficiency_table import clock
from dycoke.eval.report.results import Results, read_results
from dycoke.eval.runs.folder import RunFolder
from dycoke.lab.interrupts import guarded
from dycoke.lab.record import device


@dataclass(frozen=True)
class Left:
    """What is left to be made of an experiment: runs, and the samples and seconds of those whose time is known.

    devices: those were measured on; here: the device the runs would have. unknown: runs that nobody has made.
    """

    name: str
    runs: int
    samples: int
    seconds: float
    devices: tuple[str, ...]
    here: tuple[str, ...]
    unknown: int


def left(results: Results, again: Path) -> Left:
    """Rest of an experiment that is not complete in the folder of results `again`."""
    runs = [run for run in results.runs if not RunFolder.of(again, run.spec).complete]
    known = [run for run in runs if run.metrics is not None]
    return Left(
        results.experiment.name,
        len(runs),
        sum(run.samples for run in known),
        sum(run.metrics["usage"]["seconds"] for run in known),
        tuple(dict.fromkeys(run.metrics["made"]["device"] for run in known)),
        tuple(dict.fromkeys(device(run.spec.launcher.cpu) for run in known)),
        len(runs) - len(known),
    )


def told(experiments: list[Left], processes: int) -> list[str]:
    """A line for each experiment, one for all of them, and one more where this machine has another device."""
    lines = [_line(each, processes) for each in experiments]
    devices, here = (
        list(dict.fromkeys(name for each in experiments for name in getattr(each, field)))
        for field in ("devices", "here")
    )
    if devices:
        total = clock(sum(each.seconds for each in experiments) / processes)
        many = "one process" if processes == 1 else f"{processes} processes"
        lines.append(f"In all about {total} with {many}, by the times measured on {', '.join(devices)}.")
    if devices != here:
        lines.append(f"This machine would use {', '.join(here)}, which takes another time.")
    return lines


def _line(each: Left, processes: int) -> str:
    if not each.runs:
        return f"{each.name}: all is there"
    unknown = f", and {each.unknown} of them of unknown time" if each.unknown else ""
    time = clock(each.seconds / processes)
    return f"{each.name}: {each.runs} runs to be made, {each.samples} samples, about {time}{unknown}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", type=Path, nargs="+", help="folders of experiments that are there")
    parser.add_argument("--again", type=Path, required=True, help="folder of results they are made again in")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the samples [default: 1]")
    given = parser.parse_args(arguments)
    if given.processes < 1:
        parser.error(f"--processes {given.processes}: expected an integer of at least 1")
    try:
        experiments = [left(read_results(folder.name, folder.parent), given.again) for folder in given.experiments]
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print("\n".join(told(experiments, given.processes)))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, last=True))
