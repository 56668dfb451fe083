"""Intervals in a report, the columns of NanoVideoBench, and two methods compared on the same videos."""

from __future__ import annotations

import csv
import io

import pytest

from dycoke import cli
from dycoke.eval.report import bootstrap
from dycoke.eval.report.difference_table import difference_table
from dycoke.eval.report.main_table import main_records
from dycoke.eval.report.numbers import Published
from dycoke.eval.report.results import read_results
from dycoke.eval.report.table_formats import csv_text, latex, markdown
from dycoke.nano.generator import FAMILIES
from tests.eval.report.report_cases import SMALL, column, small, table_of, texts
from tests.eval.report.test_report_formats import check_latex

LEAVES = [f"nanovideo_{name}" for name in FAMILIES]
TEXT = SMALL.replace("[activitynetqa, nextqa_mc_test, mvbench]", "[nanovideo, nextqa_mc_test]")
SCORES = {label: {"exact_match": 0.5} for label in ("full", "FastV", "K=0.3", "K=0.7", "Random")}
RIGHT = {"full": 18, "FastV": 15, "K=0.3": 16, "K=0.7": 14, "Random": 10}  # of 20 videos
VIDEOS = 20


def answered(spec, metrics):
    """In each family the method is right about its first so many videos, one fewer in every family after the first."""
    if spec.task != "nanovideo":
        return metrics
    metrics |= {"scores": {}, "scored": {}, "samples": dict.fromkeys(LEAVES, VIDEOS)}
    for number, (leaf, family) in enumerate(zip(LEAVES, FAMILIES.values(), strict=True)):
        right = RIGHT[spec.method.label] - (number > 0)
        values = [float(video < right) for video in range(VIDEOS)]
        names = "word_f1" if family.long else "exact_match", "score"
        metrics["scores"][leaf] = dict.fromkeys(names, right / VIDEOS)
        metrics["scored"][leaf] = {"clusters": list(range(VIDEOS)), "values": dict.fromkeys(names, values)}
    return metrics


def without_samples(spec, metrics):
    """As a run of an earlier version, and of a task whose metric is no mean, left it."""
    return {key: value for key, value in answered(spec, metrics).items() if key != "scored"}


@pytest.fixture
def nano(tmp_path):
    small(tmp_path, answered, TEXT, SCORES)
    return tmp_path


def test_a_column_for_all_for_the_short_ones_and_for_each_family(nano):
    table = table_of(nano)
    scores = table.headers[table.headers.index("NanoVideo") :]
    own = ["NanoVideo", "Short answers", "Direction", "Moving count", "Existence", "Order", "State", "Position"]
    own += ["Occlusion", "Speed", "Digits", "Flash count", "Events F1", "Transcript F1"]
    assert [header for header in scores if header != "paper"] == [*own, "NextQA mc", "Mean (%)"]
    assert texts(table, "Direction") == ["90.00", "75.00", "80.00", "70.00", "50.00"]
    assert texts(table, "Events F1") == ["85.00", "70.00", "75.00", "65.00", "45.00"]
    assert texts(table, "NanoVideo")[0] == f"{(90 + 11 * 85) / 12:.2f}"
    assert texts(table, "Short answers")[0] == f"{(90 + 9 * 85) / 10:.2f}"
    assert texts(table, "Mean (%)")[0] == f"{((90 + 11 * 85) / 12 + 50) / 2:.2f}"  # a family counts once
    assert [cell.rank for cell in column(table, "NanoVideo")] == [0, 2, 1, 0, 0]


def test_a_cell_has_its_interval_beside_it(nano):
    table = table_of(nano)
    low, high = bootstrap.interval(
        {"all": {"clusters": list(range(VIDEOS)), "values": {"right": [1.0] * 18 + [0.0] * 2}}}, "right"
    )
    assert column(table, "Direction")[0].beside == f"({100 * low:.1f}, {100 * high:.1f})"
    assert 70 < 100 * low < 80 and high == 1
    assert {cell.beside for cell in column(table, "NextQA mc")} == {""}
    assert sum("95 % interval" in line for line in table.foot) == 1
    best = column(table, "NanoVideo")[2]
    assert f"**{best.text}** {best.beside}" in markdown(table)
    assert f"\\textbf{{{best.text}}} {best.beside}" in latex(table)
    check_latex(latex(table), len(table.headers))


def test_records_have_the_ends(nano):
    found = read_results("small", nano)
    records = list(csv.DictReader(io.StringIO(csv_text(main_records(found, Published(found))))))
    full = {record["column"]: record for record in records if record["method"] == "full"}
    ends = [float(full["nanovideo_direction"][end]) for end in ("low", "high")]
    assert ends[0] < float(full["nanovideo_direction"]["value"]) == 90.0 < ends[1] == 100.0
    assert full["nextqa_mc_test"]["low"] == full["flops_t"]["high"] == ""


def test_runs_that_do_not_say_what_each_sample_scored_have_none(tmp_path):
    small(tmp_path, without_samples, TEXT, SCORES)
    table = table_of(tmp_path)
    assert texts(table, "Direction")[0] == "90.00" and column(table, "Direction")[0].beside == ""
    assert not any("interval" in line for line in table.foot)


def test_a_run_without_one_of_the_families_is_refused(tmp_path):
    def change(spec, metrics):
        answered(spec, metrics)["scores"].pop("nanovideo_order", None)
        return metrics

    small(tmp_path, change, TEXT, SCORES)
    with pytest.raises(ValueError, match="nanovideo_short: nothing of nanovideo_order"):
        table_of(tmp_path)


def test_two_methods_are_compared_on_the_same_videos(nano):
    table = difference_table(read_results("small", nano), "full", "Random")
    (section,) = table.sections
    assert table.headers == ("Column", "full", "Random", "Difference")
    rows = {row[0].text: row[1:] for row in section.rows}
    assert list(rows)[:3] == ["NanoVideo", "Short answers", "Direction"] and list(rows)[-1] == "NextQA mc"
    assert [cell.text for cell in rows["Direction"]] == ["90.00", "50.00", "40.00"]
    assert rows["Direction"][2].beside == "(20.00, 60.00)"  # eight of the twenty videos tell the two apart
    assert [cell.text for cell in rows["NextQA mc"]] == ["50.00", "50.00", "0.00"] and not rows["NextQA mc"][2].beside
    assert [name.rpartition(", ")[2] for name, _ in table.runs] == ["full", "Random"]
    back = difference_table(read_results("small", nano), "Random", "full").sections[0].rows[2]
    assert (back[3].text, back[3].beside) == ("-40.00", "(-60.00, -20.00)")


def test_a_pair_of_which_one_is_missing_has_no_difference(tmp_path):
    small(tmp_path, lambda spec, m: None if spec.method.label == "Random" else answered(spec, m), TEXT, SCORES)
    row = difference_table(read_results("small", tmp_path), "full", "Random").sections[0].rows[0]
    assert [cell.text for cell in row[2:]] == ["-", "-"] and row[3].beside == ""


def test_each_model_and_number_of_frames_is_compared(tmp_path):
    text = TEXT.replace("frames: 32", "frames: [16, 32]")
    small(tmp_path, answered, text, SCORES)
    table = difference_table(read_results("small", tmp_path), "K=0.3", "FastV")
    assert [section.heading.rpartition(", ")[2] for section in table.sections] == ["16 frames", "32 frames"]
    assert [section.rows[0][3].text for section in table.sections] == ["5.00", "5.00"]


def test_the_command_prints_the_comparison_behind_the_table(nano, capsys):
    arguments = ["report", "small", "--results", str(nano)]
    assert cli.main(arguments) == 0
    plain = capsys.readouterr().out
    assert cli.main([*arguments, "--difference", "full", "K=0.3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(plain) and "# A small table: full minus K=0.3" in out[len(plain) :]
    assert cli.main([*arguments, "--difference", "full", "nothing"]) == 2
    told = capsys.readouterr().err
    assert "expected labels of two rows of one group: full, FastV, K=0.3, K=0.7, Random" in told
