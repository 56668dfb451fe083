"""Published numbers in a report: beside ours, of the same number of frames, and named where there are none."""

from __future__ import annotations

from dycoke.eval.report.efficiency_table import efficiency_table
from tests.eval.report.report_cases import SMALL, small, table_of, texts


def test_published_numbers_stand_beside_ours(tmp_path):
    small(tmp_path)
    table = table_of(tmp_path)
    assert texts(table, "NextQA mc", beside=True) == ["79.4", "78.2", "79.1", "78.2", "-"]
    assert texts(table, "ActNet-QA score", beside=True) == ["2.86", "2.80", "2.85", "2.85", "-"]
    assert texts(table, "FLOPs (T)", beside=True) == ["41.4", "17.9", "30.8", "17.9", "-"]
    assert table.headers.count("paper") == 6  # table 1 has neither true FLOPs nor KV nor MVBench
    assert any("Table 1" in line and "not measured here" in line for line in table.foot)


def test_published_numbers_are_not_shown_beside_another_number_of_frames(tmp_path):
    small(tmp_path, text=SMALL.replace("frames: 32", "frames: [16, 32]"))
    table = table_of(tmp_path)
    assert texts(table, "NextQA mc", beside=True, section=0) == ["-"] * 5
    assert texts(table, "NextQA mc", beside=True, section=1)[0] == "79.4"


def test_without_a_published_table_no_column_is_empty(tmp_path):
    small(tmp_path, text=SMALL.replace("paper: table1", ""))
    assert "paper" not in table_of(tmp_path).headers


def test_a_row_that_was_not_published_is_named(tmp_path):
    small(tmp_path, text=SMALL.replace("paper: fastv", "paper: fasvt"))
    table = table_of(tmp_path)
    assert texts(table, "NextQA mc", beside=True)[1] == "-"
    assert "Not in Table 1, six benchmarks, 32 frames: fasvt." in table.foot


def of_each_frames(tasks):
    text = SMALL.replace("table1", "table3").replace("frames: 32", "frames: [16, 32]")
    for row in ("full", "fastv", '"dycoke_k{k}_l{l}_p{p}"'):
        text = text.replace(f"paper: {row}", f'paper: "{row.strip(chr(34))}_f{{frames}}"')
    return text.replace("[activitynetqa, nextqa_mc_test, mvbench]", tasks)


def test_a_published_row_may_be_of_one_number_of_frames(tmp_path):
    small(tmp_path, text=of_each_frames("[mvbench]"))
    table = table_of(tmp_path, efficiency_table)
    assert texts(table, "s/example", beside=True, section=0) == ["1.19", "0.96", "-", "0.85", "-"]
    assert texts(table, "Total", beside=True, section=1) == ["2:33:30", "1:55:20", "-", "1:39:49", "-"]
    assert texts(table, "Peak memory (GiB)", beside=True, section=1)[0] == "34"


def test_a_published_time_of_one_task_is_not_shown_beside_several(tmp_path):
    small(tmp_path, text=of_each_frames("[mvbench, nextqa_mc_test]"))
    assert "paper" not in table_of(tmp_path, efficiency_table).headers
    assert texts(table_of(tmp_path), "MVBench", beside=True)[0] == "57.58"
