"""Columns of the tables: the paper's units, the mean over leaf tasks, and what a task without an entry gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dycoke.eval.benchmarks import BENCHMARKS, Column, columns_of, value

TASKS = [
    "mvbench",
    "videomme",
    "videomme_w_subtitle",
    "nextqa_mc_test",
    "activitynetqa",
    "perceptiontest_val_mc",
    "video_dc499",
    "egoschema_subset",
    "longvideobench_val_v",
    "mlvu_dev",
]
PUBLISHED = [  # score columns of table 1, in its order
    "activitynetqa_acc",
    "activitynetqa_score",
    "nextqa_mc_test",
    "perceptiontest_val_mc",
    "video_dc499",
    "videomme",
    "videomme_w_subtitle",
]
LONG = {"nanovideo_events": "word_f1", "nanovideo_transcript": "word_f1"}
FAMILY_TASKS = [
    "nanovideo_direction",
    "nanovideo_moving_count",
    "nanovideo_existence",
    "nanovideo_order",
    "nanovideo_state",
    "nanovideo_position",
    "nanovideo_occlusion",
    "nanovideo_speed",
    "nanovideo_digits",
    "nanovideo_flash_count",
    *LONG,
]


def test_every_task_of_the_paper_has_columns_in_the_order_of_its_table():
    own = {name for name, benchmark in BENCHMARKS.items() if not benchmark.published}
    assert own == {"nano_samples_short", "nano_samples_long", "nanovideo", *FAMILY_TASKS}
    assert sorted(BENCHMARKS) == sorted([*TASKS, *own])
    assert all(name == benchmark.task and benchmark.columns for name, benchmark in BENCHMARKS.items())
    columns = [column for benchmark in BENCHMARKS.values() for column in benchmark.columns]
    keys = [column.key for column in columns]
    assert keys[: len(PUBLISHED)] == PUBLISHED
    different = {replace(column, part=False) for column in columns}  # a family of NanoVideoBench is a task as well
    assert len(different) == len(columns) - len(FAMILY_TASKS)
    assert len({column.key for column in different}) == len({column.label for column in different}) == len(different)


def test_nanovideo_is_the_mean_of_its_families_and_shows_each():
    columns = {column.key: column for column in columns_of("nanovideo", {})}
    assert list(columns) == ["nanovideo", "nanovideo_short", *FAMILY_TASKS]
    assert [key for key, column in columns.items() if column.averaged] == ["nanovideo"]
    scores = {
        task: {"score": number / 100, LONG.get(task, "exact_match"): number / 100}
        for number, task in enumerate(FAMILY_TASKS)
    }
    assert {key: value(column, scores) for key, column in columns.items()} == pytest.approx(
        {"nanovideo": 5.5, "nanovideo_short": 4.5} | {task: number for number, task in enumerate(FAMILY_TASKS)}
    )
    for task in FAMILY_TASKS:
        (alone,) = columns_of(task, {})
        assert alone == replace(columns[task], part=False) and alone.averaged
        assert value(alone, {task: scores[task]}) == value(columns[task], scores)
    del scores["nanovideo_order"]
    with pytest.raises(ValueError, match="nanovideo_short: nothing of nanovideo_order; has nanovideo_direction, "):
        value(columns["nanovideo_short"], scores)


def test_open_answers_are_judged():
    judged = {name for name, benchmark in BENCHMARKS.items() if benchmark.judged}
    assert judged == {"activitynetqa", "video_dc499"}


def test_a_value_is_in_the_papers_unit():
    (nextqa,) = columns_of("nextqa_mc_test", {})
    assert value(nextqa, {"nextqa_mc_test": {"exact_match": 0.572, "exact_match_stderr": 0.01}}) == pytest.approx(57.2)
    accuracy, score = columns_of("activitynetqa", {})
    scores = {"activitynetqa": {"gpt_eval_score": 2.66, "gpt_eval_accuracy": 47.93}}
    assert (value(accuracy, scores), value(score, scores)) == (47.93, 2.66)


def test_mvbench_is_the_mean_of_its_leaves_whatever_their_sizes():
    (column,) = columns_of("mvbench", {})
    scores = {f"mvbench_{number}": {"mvbench_accuracy": 5.0 * number} for number in range(20)}
    assert value(column, scores) == pytest.approx(47.5)


@pytest.mark.parametrize("given", [{}, {"score": None}, {"score": "N/A"}, {"score": True}])
def test_a_leaf_without_a_number_is_refused(given):
    column = Column("egoschema_subset", "score", "EgoSchema", 100)
    with pytest.raises(ValueError, match=r"^second: score=.*: expected a number"):
        value(column, {"first": {"score": 0.5}, "second": given})


def test_no_leaves_are_refused():
    with pytest.raises(ValueError, match="no scores"):
        value(Column("mvbench", "mvbench_accuracy", "MVBench"), {})


def test_an_unknown_task_shows_every_metric_as_it_is():
    scores = {
        "one": {"right": 0.5, "right_stderr": 0.1, "right_stderr_clt": 0.1, "right_stderr_clustered": 0.1},
        "two": {"right": 1, "submission": None},
    }
    assert columns_of("mine", scores) == (Column("mine", "right", "mine", percent=False),)
    assert value(columns_of("mine", scores)[0], scores) == 0.75
    both = columns_of("mine", {"one": {"right": 0.5, "wups": 3.0}})
    assert [(column.key, column.metric, column.label, column.scale) for column in both] == [
        ("mine_right", "right", "mine right", 1.0),
        ("mine_wups", "wups", "mine wups", 1.0),
    ]
