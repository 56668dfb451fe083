"""Sections of an experiment's rows in its tables: under headings, and compared with each other only."""

from __future__ import annotations

from dycoke.eval.report.efficiency_table import efficiency_table
from dycoke.eval.report.results import read_results
from tests.eval.report.report_cases import SECTIONED, column, small, table_of, texts

HEADING = "llava-onevision-qwen2-7b-ov, 32 frames"


def test_rows_of_a_section_stand_under_its_heading_behind_the_others(tmp_path):
    small(tmp_path, text=SECTIONED)
    table = table_of(tmp_path)
    assert [section.heading for section in table.sections] == [HEADING, f"{HEADING}: Half"]
    assert texts(table, "Method") == ["full", "K=0.3", "K=0.7", "Random"]
    assert texts(table, "Method", section=1) == ["FastV", "VisionZip"]
    assert texts(table, "NextQA mc", section=1) == ["80.10", "20.00"]
    assert [name.rpartition(", ")[2] for name, _ in table.runs] == [
        "full",
        "K=0.3",
        "K=0.7",
        "Random",
        "FastV",
        "VisionZip",
    ]


def test_ranks_are_within_a_section(tmp_path):
    small(tmp_path, text=SECTIONED)
    table = table_of(tmp_path)
    ranks = [[cell.rank for cell in column(table, "NextQA mc", section=number)] for number in (0, 1)]
    assert ranks == [[0, 2, 1, 0], [1, 2]]


def test_costs_are_compared_with_full_in_every_section(tmp_path):
    small(tmp_path, text=SECTIONED)
    assert "-" not in texts(table_of(tmp_path), "FLOPs ratio (%)", section=1)


def test_sections_of_every_number_of_frames(tmp_path):
    small(tmp_path, text=SECTIONED.replace("frames: 32", "frames: [32, 16]"))
    table = table_of(tmp_path)
    assert [section.heading.partition(", ")[2] for section in table.sections] == [
        "16 frames",
        "16 frames: Half",
        "32 frames",
        "32 frames: Half",
    ]
    assert texts(table, "Method", section=3) == ["FastV", "VisionZip"]


def test_times_have_the_same_sections(tmp_path):
    small(tmp_path, text=SECTIONED)
    table = table_of(tmp_path, efficiency_table)
    assert [section.heading for section in table.sections[3:]] == [
        f"{HEADING}: Half, {task}" for task in ("activitynetqa", "nextqa_mc_test", "mvbench")
    ]
    assert texts(table, "Method", section=3) == ["FastV", "VisionZip"]
    assert texts(table, "Speed-up", section=3) == ["1.00", "1.00"]


def test_a_group_keeps_all_its_rows(tmp_path):
    small(tmp_path, text=SECTIONED)
    (group,) = read_results("small", tmp_path).groups
    assert [row.method.label for row in group.rows] == ["full", "K=0.3", "K=0.7", "Random", "FastV", "VisionZip"]
