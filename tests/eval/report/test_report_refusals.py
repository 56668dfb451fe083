"""What a report refuses, in one line: runs that do not belong together, and folders that hold something else."""

from __future__ import annotations

import json

import pytest

from dycoke.eval.report.command import write_report
from dycoke.eval.report.results import read_results
from tests.eval.report.report_cases import SMALL, small

FIRST = "llava-onevision-qwen2-7b-ov_f32_full__mvbench"


def refusal(results, experiment="small") -> str:
    with pytest.raises(ValueError) as caught:
        write_report(experiment, results)
    assert "\n" not in str(caught.value)
    assert not (results / "small" / "tables").exists()
    return str(caught.value)


@pytest.mark.parametrize(("part", "told"), [("data", "samples"), ("prompts", "prompts")])
def test_runs_of_different_data_or_prompts_are_not_mixed(tmp_path, part, told):
    def change(spec, metrics):
        if spec.method.label == "K=0.7" and spec.task == "mvbench":
            metrics["fingerprint"][part] = "others"
        return metrics

    small(tmp_path, change)
    complaint = refusal(tmp_path)
    assert complaint.startswith(f"mvbench: {FIRST} and ") and f"had different {told}" in complaint
    assert "llava-onevision-qwen2-7b-ov_f32_dycoke-k0.7-l3-p0.7__mvbench" in complaint


def test_tasks_may_differ_in_data_and_prompts(tmp_path):
    small(tmp_path)
    fingerprints = {json.dumps(run.metrics["fingerprint"]) for run in read_results("small", tmp_path).complete}
    assert len(fingerprints) == 3


def test_a_run_made_with_other_settings_is_refused(tmp_path):
    small(tmp_path)
    (tmp_path / "small" / "experiment.yaml").write_text(SMALL + "seed: 7\n")
    assert "was made with seed=0, the experiment now says 7" in refusal(tmp_path)


def test_another_label_is_no_other_run(tmp_path):
    small(tmp_path)
    (tmp_path / "small" / "experiment.yaml").write_text(SMALL.replace("label: FastV", "label: Fast V"))
    assert [row.method.label for _, row in read_results("small", tmp_path).rows][1] == "Fast V"


def test_metrics_of_another_run_are_refused(tmp_path):
    def change(spec, metrics):
        return metrics | {"run": "another"} if spec.id == FIRST else metrics

    small(tmp_path, change)
    assert f"metrics of another; expected those of {FIRST}" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"run": "x"}'])
def test_metrics_that_cannot_be_read_are_named(tmp_path, text):
    small(tmp_path)
    (tmp_path / "small" / FIRST / "metrics.json").write_text(text)
    assert f"{FIRST}/metrics.json: " in refusal(tmp_path)


def test_metrics_without_their_settings_are_refused(tmp_path):
    small(tmp_path)
    (tmp_path / "small" / FIRST / "config.yaml").unlink()
    assert f"{FIRST}/config.yaml: no such file" in refusal(tmp_path)


def test_an_unknown_published_table_is_named(tmp_path):
    small(tmp_path, text=SMALL.replace("table1", "table9"))
    assert "published table 'table9': expected one of table1" in refusal(tmp_path)


def test_scores_without_the_metric_of_the_task_are_refused(tmp_path):
    def change(spec, metrics):
        if spec.id == FIRST:
            metrics["scores"] = {"mvbench_one": {"other": 1.0}}
        return metrics

    small(tmp_path, change)
    assert "mvbench_one: mvbench_accuracy=None: expected a number" in refusal(tmp_path)


def test_an_experiment_that_was_not_swept_is_named_with_those_that_were(tmp_path):
    small(tmp_path)
    complaint = refusal(tmp_path, "large")
    assert complaint == f"large: no experiment was swept into {tmp_path}/large; those in {tmp_path}: small"
