"""Footnotes of every table of a report: samples, provenance, and what the numbers do not show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dycoke.eval.benchmarks import BENCHMARKS
from dycoke.eval.report.results import Results, Run
from dycoke.nano import EMBEDDED
from dycoke.options import write_value


def circumstances(results: Results) -> tuple[str, ...]:
    """Lines that say how the runs were made, in the order in which the runs stand, without times of day."""
    runs = list(results.complete)
    lines = [_samples(results), _settings(results), *_labels(results)]
    if runs:
        lines += [
            _listed("Commit", (_commit(run.metrics["made"]) for run in runs)),
            _listed("Device", (str(run.metrics["made"]["device"]) for run in runs)),
            _listed("Versions", (_versions(run.metrics["made"]["versions"]) for run in runs)),
            _listed("Dtype", (run.metrics["made"]["dtype"] for run in runs)),
        ]
    return tuple(lines)


def state(run: Run, results: Results) -> str:
    """State of a run: "complete", or how far it has come."""
    if run.metrics is not None:
        return "complete"
    if not run.answered:
        return "not run"
    example = results.example(run.spec.task)
    return f"unfinished: {run.answered} {'' if example is None else f'of {example.samples} '}samples"


def _samples(results: Results) -> str:
    counts = []
    for task in results.tasks:
        example = results.example(task)
        leaves = 0 if example is None else len(example.metrics["samples"])
        count = "none yet" if example is None else str(example.samples)
        counts.append(f"{task} {count}" + (f" (of {leaves} tasks)" if leaves > 1 else ""))
    limit = results.experiment.runs[0].limit
    cut = "" if limit is None else f"; only the first {limit} samples of each task"
    return f"Samples: {', '.join(counts)}{cut}."


def _settings(results: Results) -> str:
    run = results.experiment.runs[0]
    given = [f"{key} {write_value(value)}" for key, value in sorted(run.generation.items())]
    generation = f"; generation: {', '.join(given)} instead of the tasks' own" if given else ""
    return f"Seed {run.seed}, batch size {run.batch_size}{generation}."


def _labels(results: Results) -> list[str]:
    """Labels of what is not a measurement on a published benchmark, or of a published model."""
    lines = []
    own = [task for task in results.tasks if task not in BENCHMARKS or not BENCHMARKS[task].published]
    if own:
        lines.append(f"No published benchmark: {', '.join(own)}.")
    if any(group.model.pretrained == EMBEDDED for group in results.groups):
        lines.append(
            f"Model {EMBEDDED} is the small one embedded here, trained on synthetic videos: its scores are no results "
            "on published benchmarks and say nothing of other models."
        )
    return lines


def _commit(made: dict[str, Any]) -> str:
    modified = {True: " (modified)", None: " (unknown whether modified)"}.get(made["modified"], "")
    return f"{made['commit'] or 'unknown'}{modified}"


def _versions(versions: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)


def _listed(name: str, values: Iterable[str]) -> str:
    """All that differ, each once."""
    return f"{name}: {'; '.join(dict.fromkeys(values))}."
