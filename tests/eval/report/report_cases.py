"""An experiment of five methods and three tasks, and how the tests read its tables."""

from __future__ import annotations

from pathlib import Path

from dycoke.eval.report.main_table import main_table
from dycoke.eval.report.numbers import Published
from dycoke.eval.report.results import read_results
from dycoke.eval.runs.experiment import Experiment
from tests.eval import run_folders

SMALL = """
title: A small table
paper: table1
model: {id: llava_onevision, pretrained: lmms-lab/llava-onevision-qwen2-7b-ov}
video: {frames: 32}
tasks: [activitynetqa, nextqa_mc_test, mvbench]
methods:
  - {name: full, paper: full}
  - {name: fastv, k: 2, r: 0.5, label: FastV, paper: fastv}
  - {name: dycoke, k: [0.3, 0.7], l: 3, p: 0.7, label: "K={k}", paper: "dycoke_k{k}_l{l}_p{p}"}
  - {name: random_drop, label: Random}
"""
SECTIONED = SMALL.replace(
    """  - {name: fastv, k: 2, r: 0.5, label: FastV, paper: fastv}
""",
    """  - section: Half
    methods:
      - {name: fastv, k: 2, r: 0.5, label: FastV, paper: fastv}
      - {name: visionzip, label: VisionZip}
""",
)
SCORES = {
    label: {
        "gpt_eval_accuracy": accuracy,
        "gpt_eval_score": judged,
        "exact_match": match,
        "exact_match_stderr": 0.01,
        "mvbench_accuracy": match * 50,
        "mvbench_accuracy_stderr": 3.0,
    }
    for label, accuracy, judged, match in [
        ("full", 60.0, 3.0, 0.9),
        ("FastV", 50.0, 2.5, 0.801),
        ("K=0.3", 55.0, 2.501, 0.7),
        ("K=0.7", 55.001, 2.4, 0.8),
        ("Random", 10.0, 1.0, 0.1),
        ("VisionZip", 20.0, 1.5, 0.2),
    ]
}


def as_it_is(spec, metrics):
    return metrics


def small(results: Path, change=as_it_is, text=SMALL, scores=SCORES) -> Experiment:
    """Write results/small, its metrics as `change` makes them."""
    experiment = run_folders.write_experiment(results, "small", text)
    run_folders.write_runs(results, experiment, scores, change)
    return experiment


def table_of(results: Path, make=main_table):
    found = read_results("small", results)
    return make(found, Published(found))


def column(table, header, beside=False, section=0):
    """The cells under a header, or those of the published column beside it."""
    place = table.headers.index(header) + beside
    assert not beside or table.headers[place] == "paper"
    return [row[place] for row in table.sections[section].rows]


def texts(table, header, beside=False, section=0):
    return [cell.text for cell in column(table, header, beside, section)]
