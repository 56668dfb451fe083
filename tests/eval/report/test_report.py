"""The main table of a report: values, ranks, published numbers, what runs lack, and where cells lead."""

from __future__ import annotations

import csv
import io

import pytest

from dycoke.eval.report.efficiency_table import efficiency_table
from dycoke.eval.report.main_table import main_records
from dycoke.eval.report.numbers import Published
from dycoke.eval.report.results import read_results
from dycoke.eval.report.table_formats import csv_text, markdown
from tests.eval import run_folders
from tests.eval.report.report_cases import SCORES, SMALL, column, small, table_of, texts


def multiply_adds(prefill, decode):
    """Formula (A) of a model 64 wide with an MLP of 128, by hand: the paper counts 100 decoded tokens."""
    return sum(4 * n * 64**2 + 2 * n**2 * 64 + 2 * n * 64 * 128 for n in prefill) + 100 * sum(
        4 * 64**2 + 2 * 64 * 128 + 2 * (64 * n + 64 * 101 / 2) for n in decode
    )


def test_rows_are_in_the_order_of_the_file_and_columns_in_that_of_the_tasks(tmp_path):
    small(tmp_path)
    table = table_of(tmp_path)
    assert texts(table, "Method") == ["full", "FastV", "K=0.3", "K=0.7", "Random"]
    assert [header for header in table.headers if header != "paper"] == [
        "Method",
        "Retained ratio (mean, %)",
        "Retained ratio (final, %)",
        "FLOPs (T)",
        "FLOPs ratio (%)",
        "True FLOPs (T)",
        "KV (MiB)",
        "ActNet-QA acc.",
        "ActNet-QA score",
        "NextQA mc",
        "MVBench",
        "Mean (%)",
    ]
    assert [section.heading for section in table.sections] == ["llava-onevision-qwen2-7b-ov, 32 frames"]


def test_scores_are_in_the_papers_units(tmp_path):
    small(tmp_path)
    table = table_of(tmp_path)
    assert texts(table, "ActNet-QA acc.") == ["60.00", "50.00", "55.00", "55.00", "10.00"]
    assert texts(table, "ActNet-QA score") == ["3.00", "2.50", "2.50", "2.40", "1.00"]
    assert texts(table, "NextQA mc") == ["90.00", "80.10", "70.00", "80.00", "10.00"]
    assert texts(table, "Mean (%)")[1] == f"{(50 + 80.1 + 40.05) / 3:.2f}"  # a judged score of 0 to 5 is no percent


def test_costs_follow_from_the_tokens_measured(tmp_path):
    small(tmp_path)
    table = table_of(tmp_path)
    full = multiply_adds([1000] * 4, [1000] * 4)
    fastv = multiply_adds([1000, 1000, 500, 500], [1000, 1000, 500, 500])
    dycoke = multiply_adds([300] * 4, [300] * 3 + [90])
    assert texts(table, "Retained ratio (mean, %)") == ["100.00", "75.00", "70.00", "30.00", "100.00"]
    assert texts(table, "Retained ratio (final, %)") == ["100.00", "50.00", "21.00", "9.00", "100.00"]
    ratios = texts(table, "FLOPs ratio (%)")
    assert [ratios[0], ratios[1], ratios[3]] == ["100.0", f"{100 * fastv / full:.1f}", f"{100 * dycoke / full:.1f}"]
    flops = [float(text) for text in texts(table, "FLOPs (T)")]
    assert [flops[0], flops[3]] == pytest.approx([full / 1e12, dycoke / 1e12], rel=5e-3)
    n = 1000 + run_folders.TEXT
    true = 2 * 4 * (2 * n * 64**2 * 1.5 + 2 * n**2 * 64 + 3 * n * 64 * 128)
    assert float(texts(table, "True FLOPs (T)")[0]) == pytest.approx(true / 1e12, rel=5e-3)
    assert texts(table, "KV (MiB)")[0] == f"{1000 * 4 * 2 * 2 * 16 * 2 / 2**20:.3f}"


def test_a_task_without_videos_has_no_retained_ratio(tmp_path):
    def change(spec, metrics):
        if spec.task == "mvbench":
            metrics["usage"] |= {"visual_tokens": 0, "visual_kept": 0, "inside": [], "decode": None}
        return metrics

    small(tmp_path, change)
    assert texts(table_of(tmp_path), "Retained ratio (mean, %)")[:2] == ["100.00", "75.00"]
    assert texts(table_of(tmp_path), "Retained ratio (final, %)")[:2] == ["100.00", "50.00"]
    assert float(texts(table_of(tmp_path), "KV (MiB)")[0]) == pytest.approx(0.488 * 2 / 3, abs=1e-3)


def test_small_costs_keep_three_digits(tmp_path):
    small(tmp_path)
    assert all(len(text.replace(".", "").lstrip("0")) == 3 for text in texts(table_of(tmp_path), "FLOPs (T)"))


def test_best_and_second_are_among_the_methods_other_than_full(tmp_path):
    small(tmp_path)
    table = table_of(tmp_path)
    ranks = {
        header: [cell.rank for cell in column(table, header)] for header in ("NextQA mc", "ActNet-QA score", "Mean (%)")
    }
    assert ranks["NextQA mc"] == [0, 1, 0, 2, 0]
    assert ranks["ActNet-QA score"] == [0, 1, 1, 2, 0]  # 2.5 and 2.501 print the same
    assert ranks["Mean (%)"] == [0, 2, 0, 1, 0]
    assert [cell.rank for cell in column(table, "ActNet-QA acc.")] == [0, 2, 1, 1, 0]
    assert {cell.rank for header in ("FLOPs (T)", "KV (MiB)") for cell in column(table, header)} == {0}
    text = markdown(table)
    assert "**80.10**" in text and "<u>80.00</u>" in text


def test_ranks_are_by_group(tmp_path):
    two = SMALL.replace("frames: 32", "frames: [32, 16]")

    def change(spec, metrics):
        if spec.frames == 16 and spec.method.label == "Random":
            metrics["scores"] = {leaf: given | {"exact_match": 0.85} for leaf, given in metrics["scores"].items()}
        return metrics

    small(tmp_path, change, two)
    table = table_of(tmp_path)
    assert [section.heading.rpartition(", ")[2] for section in table.sections] == ["16 frames", "32 frames"]
    assert [cell.rank for cell in column(table, "NextQA mc", section=0)] == [0, 2, 0, 0, 1]
    assert [cell.rank for cell in column(table, "NextQA mc", section=1)] == [0, 1, 0, 2, 0]


def test_a_lone_method_is_not_the_best(tmp_path):
    small(tmp_path, lambda spec, metrics: metrics if spec.method.label in ("full", "FastV") else None)
    assert {cell.rank for cell in column(table_of(tmp_path), "NextQA mc")} == {0}


def test_missing_runs_are_shown_with_what_they_lack(tmp_path):
    experiment = small(
        tmp_path, lambda spec, metrics: None if spec.method.label == "Random" or spec.id.endswith("K0.3") else metrics
    )
    stopped = next(run for run in experiment.runs if run.method.label == "Random" and run.task == "mvbench")
    run_folders.unfinished(tmp_path, stopped, 7)
    table = table_of(tmp_path)
    assert texts(table, "Method")[-1] == "Random"
    cells = [column(table, header)[-1] for header in ("NextQA mc", "MVBench", "Mean (%)", "KV (MiB)")]
    assert [cell.text for cell in cells] == ["-"] * 4
    told = [[table.notes[number - 1] for number in cell.notes] for cell in cells]
    assert told == [["not run"], ["unfinished: 7 of 12 samples"], [], ["not run"]]
    assert table.notes == ("not run", "unfinished: 7 of 12 samples")
    assert f"- [{cells[1].notes[0]}] unfinished: 7 of 12 samples" in markdown(table).splitlines()


def test_an_experiment_of_which_nothing_was_run_has_its_rows(tmp_path):
    small(tmp_path, lambda spec, metrics: None)
    table = table_of(tmp_path)
    assert texts(table, "NextQA mc") == ["-"] * 5
    assert "Samples: activitynetqa none yet, nextqa_mc_test none yet, mvbench none yet." in table.foot
    assert texts(table_of(tmp_path, efficiency_table), "s/example") == ["-"] * 5


def test_runs_that_are_not_scored_have_costs_alone(tmp_path):
    small(tmp_path, text=SMALL + "score: false\n", scores={label: {} for label in SCORES})
    assert table_of(tmp_path).headers[-1] == "KV (MiB)"


def test_the_foot_says_how_the_runs_were_made(tmp_path):
    def change(spec, metrics):
        if spec.method.label == "Random":
            metrics["made"] = run_folders.MADE | {"modified": True, "device": "Another GPU"}
        return metrics

    small(tmp_path, change, SMALL + "limit: 6\ngeneration: {max_new_tokens: 1}\nbatch_size: 2\n")
    foot = table_of(tmp_path).foot
    assert (
        "Samples: activitynetqa 6, nextqa_mc_test 6, mvbench 12 (of 2 tasks); only the first 6 samples of each task."
        in foot
    )
    assert "Seed 0, batch size 2; generation: max_new_tokens 1 instead of the tasks' own." in foot
    assert "Commit: c0ffee; c0ffee (modified)." in foot
    assert "Device: A GPU; Another GPU." in foot
    assert "Versions: python 3.11.9, torch 2.14.0." in foot
    assert not any("No published" in line or "embedded" in line for line in foot)


def test_what_is_no_published_benchmark_is_labelled_and_not_ranked(tmp_path):
    text = SMALL.replace("lmms-lab/llava-onevision-qwen2-7b-ov", "nano").replace("mvbench]", "counting]")
    small(tmp_path, text=text, scores={label: given | {"errors": 4.0} for label, given in SCORES.items()})
    table = table_of(tmp_path)
    assert any(line == "No published benchmark: counting." for line in table.foot)
    assert any("Model nano is the small one embedded here" in line for line in table.foot)
    assert texts(table, "counting errors") == ["4.00"] * 5
    assert {cell.rank for cell in column(table, "counting errors")} == {0}
    assert texts(table, "Mean (%)")[0] == "75.00"  # of ActNet-QA and NextQA


def test_our_own_tasks_are_labelled(tmp_path):
    scores = {label: given | {"word_f1": 0.5} for label, given in SCORES.items()}
    text = SMALL.replace("[activitynetqa, nextqa_mc_test, mvbench]", "[nano_samples_long, mvbench]")
    small(tmp_path, text=text, scores=scores)
    assert "No published benchmark: nano_samples_long." in table_of(tmp_path).foot


def test_one_column_in_percent_has_no_mean(tmp_path):
    small(tmp_path, text=SMALL.replace("[activitynetqa, nextqa_mc_test, mvbench]", "[activitynetqa]"))
    table = table_of(tmp_path)
    assert "Mean (%)" not in table.headers and not any(line.startswith("Mean") for line in table.foot)


def test_a_cell_leads_to_its_run(tmp_path):
    experiment = small(tmp_path, lambda spec, metrics: None if spec.method.label == "Random" else metrics)
    found = read_results("small", tmp_path)
    records = list(csv.DictReader(io.StringIO(csv_text(main_records(found, Published(found))))))
    ids = {run.id for run in experiment.runs}
    assert {record["run"] for record in records} == ids
    fastv = {record["column"]: record for record in records if record["run"].endswith("fastv-k2-r0.5__nextqa_mc_test")}
    assert list(fastv) == [
        "retained_mean",
        "retained_final",
        "flops_t",
        "flops_ratio",
        "true_flops_t",
        "kv_mib",
        "nextqa_mc_test",
    ]
    cell = fastv["nextqa_mc_test"]
    assert float(cell["value"]) == pytest.approx(80.1) and float(cell["stderr"]) == pytest.approx(1.0)
    del cell["value"], cell["stderr"]
    assert cell == {
        "model": "llava-onevision-qwen2-7b-ov",
        "frames": "32",
        "method": "FastV",
        "task": "nextqa_mc_test",
        "column": "nextqa_mc_test",
        "low": "",
        "high": "",
        "published": "78.2",
        "samples": "6",
        "state": "complete",
        "run": "llava-onevision-qwen2-7b-ov_f32_fastv-k2-r0.5__nextqa_mc_test",
    }
    missing = [record for record in records if record["method"] == "Random"]
    assert {(record["value"], record["state"]) for record in missing} == {("", "not run")}
    table = table_of(tmp_path)
    assert {run for _, runs in table.runs for run in runs} == ids
    assert all(f"`{run}`" in markdown(table) for run in ids)


def test_the_error_of_a_mean_over_leaf_tasks(tmp_path):
    small(tmp_path)
    found = read_results("small", tmp_path)
    mvbench = [record for record in main_records(found, Published(found)) if record["column"] == "mvbench"]
    assert mvbench[0]["stderr"] == pytest.approx((3.0**2 + 3.0**2) ** 0.5 / 2)
    accuracy = [record for record in main_records(found, Published(found)) if record["column"] == "activitynetqa_acc"]
    assert accuracy[0]["stderr"] is None
