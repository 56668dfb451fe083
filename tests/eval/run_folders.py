"""Folders of runs as a sweep leaves them, made up: every number is a function of the method and the task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dycoke.eval.runs.experiment import Experiment, load_experiment
from dycoke.eval.runs.folder import EXPERIMENT, RunFolder
from dycoke.eval.runs.specs import RunSpec

SHAPE = {"layers": 4, "hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2, "vocabulary": 100}
MADE = {
    "commit": "c0ffee",
    "modified": False,
    "versions": {"python": "3.11.9", "torch": "2.14.0", "triton": None},
    "device": "A GPU",
    "command": "dycoke sweep small.yaml",
    "dtype": "float16",
}
VISUAL = 1000.0  # tokens of a video
TEXT = 50.0
Change = Callable[[RunSpec, dict[str, Any]], dict[str, Any] | None]


def write_experiment(results: Path, name: str, text: str) -> Experiment:
    """Write results/NAME/experiment.yaml."""
    folder = results / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EXPERIMENT).write_text(text, encoding="utf-8")
    return load_experiment(folder / EXPERIMENT, name)


def write_runs(results: Path, experiment: Experiment, scores: Mapping[str, Mapping[str, Any]], change: Change) -> None:
    """Write a complete run for each of the experiment's, but what `change` makes of its metrics; for None, no run.

    scores: {method's label: {metric: value}}, the same for each of its tasks and leaf tasks.
    """
    for spec in experiment.runs:
        given = change(spec, metrics(spec, scores[spec.method.label]))
        if given is not None:
            folder = RunFolder.of(results, spec)
            folder.start(spec, MADE)
            folder.finish([], given)


def unfinished(results: Path, spec: RunSpec, answered: int) -> None:
    """A run that was stopped after so many samples."""
    folder = RunFolder.of(results, spec)
    folder.start(spec, MADE)
    lines = ({"task": spec.task, "doc_id": number, "prompt": "p", "answer": "A"} for number in range(answered))
    folder.samples.write_text("".join(json.dumps(line) + "\n" for line in lines))


def metrics(spec: RunSpec, scores: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a run in which a share `k` of the visual tokens was dropped, and `p` of the rest is not read."""
    options = spec.method.options
    kept = VISUAL * (1 - options.get("k", 0)) if spec.method.name == "dycoke" else VISUAL
    decode = {"first_layer": 3, "visual_read": kept * (1 - options["p"])} if "p" in options else None
    inside = [[options["k"], VISUAL * (1 - options["r"])]] if spec.method.name == "fastv" else []
    leaves = [f"{spec.task}_{part}" for part in ("one", "two")] if spec.task == "mvbench" else [spec.task]
    seconds = 12.0 * kept / VISUAL
    return {
        "run": spec.id,
        "task": spec.task,
        "scores": {leaf: dict(scores) for leaf in leaves},
        "samples": {leaf: 6 for leaf in leaves},
        "fingerprint": {"data": f"data of {spec.task}", "prompts": f"prompts of {spec.task}"},
        "shape": SHAPE,
        "usage": {
            "frames": spec.frames,
            "visual_tokens": VISUAL,
            "visual_kept": kept,
            "inside": inside,
            "decode": decode,
            "prompt_tokens": kept + TEXT,
            "new_tokens": 3.0,
            "ms": {"load": 10.0, "vision": 20.0, "compress": 1.0, "prefill": 40.0, "decode": 8.0, "total": 80.0},
            "decode_ms_per_token": 4.0,
            "peak_bytes": 3 * 2**30,
            "seconds": seconds,
        },
        "made": MADE,
    }
