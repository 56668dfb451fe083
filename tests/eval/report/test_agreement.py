"""Experiments made again: whether they agree with what was there, and how long they take."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dycoke.eval.report import agreement, bootstrap, duration
from dycoke.eval.report.results import read_results
from dycoke.nano.generator import FAMILIES
from tests.eval import run_folders

TEXT = """
model: {id: llava_onevision, pretrained: nano}
video: {frames: 32}
tasks: [nano_samples_short]
launcher: {cpu: true}
methods:
"""
FULL, FASTV, RANDOM = "  - full\n", "  - {name: fastv, k: 1, r: 0.65, label: FastV}\n", "  - random_drop\n"
VIDEOS = 40
RIGHT = {"full": 36, "FastV": 30, "random_drop": 20}  # of so many videos
TASK = "nano_samples_short"


def as_it_is(spec, metrics):
    return metrics


def write(results, name, rows, right: Mapping[str, int] = RIGHT, videos=VIDEOS, change=as_it_is, text=TEXT):
    """An experiment in which a method is right about its first so many videos, of those that were asked about."""

    def answered(spec, metrics):
        values = [float(video < right[spec.method.label]) for video in range(videos)]
        metrics["scores"] = {TASK: {"exact_match": sum(values) / videos}}
        metrics["scored"] = {TASK: {"clusters": list(range(videos)), "values": {"exact_match": values}}}
        metrics["samples"] = {TASK: videos}
        metrics["fingerprint"] = {"data": f"{videos}", "prompts": f"{videos}"}
        return change(spec, metrics)

    experiment = run_folders.write_experiment(results, name, text + rows)
    run_folders.write_runs(results, experiment, {label: {} for label in right}, answered)


def compared(results, again="again", before="before"):
    return agreement.compare(read_results(again, results), read_results(before, results))


def test_rows_are_found_whatever_their_order_and_labels(tmp_path):
    write(tmp_path, "again", FASTV + FULL)
    write(tmp_path, "before", RANDOM + FULL + FASTV.replace("FastV", "Other"), RIGHT | {"Other": 20})
    found = compared(tmp_path)
    assert [(each.method, each.again.value, each.before.value) for each in found] == [
        ("FastV", 75.0, 50.0),
        ("full", 90.0, 90.0),
    ]
    assert [each.run for each in found] == [f"nano_f32_fastv-k1-r0.65__{TASK}", f"nano_f32_full__{TASK}"]


def test_intervals_are_those_of_the_report_and_agree_if_they_meet(tmp_path):
    write(tmp_path, "before", FULL + FASTV)
    low, high = (100 * end for end in bootstrap.interval(scored(30), "exact_match"))
    agreeing = {}
    for right in range(VIDEOS + 1):
        write(tmp_path / str(right), "again", FASTV, {"FastV": right})
        again, before = (read_results(*where) for where in (("again", tmp_path / str(right)), ("before", tmp_path)))
        (each,) = agreement.compare(again, before)
        assert (each.before.low, each.before.high) == pytest.approx((low, high))
        agreeing[right] = each.agrees
    ends = {right: bootstrap.interval(scored(right), "exact_match") for right in agreeing}
    assert agreeing == {right: 100 * ends[right][0] <= high and low <= 100 * ends[right][1] for right in ends}
    assert agreeing[30] and not agreeing[10] and not agreeing[40]


def scored(right):
    values = [float(video < right) for video in range(VIDEOS)]
    return {TASK: {"clusters": list(range(VIDEOS)), "values": {"exact_match": values}}}


def test_the_first_samples_are_compared_one_by_one(tmp_path):
    write(tmp_path, "again", FULL + FASTV, {"full": 10, "FastV": 4}, videos=10)
    write(tmp_path, "before", FULL + FASTV, {"full": 7, "FastV": 30})
    assert [(each.alike, each.samples) for each in compared(tmp_path)] == [(7, 10), (4, 10)]


def test_of_a_group_the_overall_score_is_compared(tmp_path):
    leaves = [f"nanovideo_{name}" for name in FAMILIES]

    def of_all(spec, metrics):
        values = {"score": metrics["scored"][TASK]["values"]["exact_match"]}
        each = {"clusters": list(range(VIDEOS)), "values": values}
        return metrics | {
            "scores": {leaf: {"score": 0.75} for leaf in leaves},
            "scored": dict.fromkeys(leaves, each),
            "samples": dict.fromkeys(leaves, VIDEOS),
        }

    for name in ("again", "before"):
        write(tmp_path, name, FASTV, change=of_all, text=TEXT.replace(TASK, "nanovideo"))
    (each,) = compared(tmp_path)
    assert (each.column, each.again.value, each.samples) == ("NanoVideo", 75.0, len(leaves) * VIDEOS)


def test_the_command_says_which_rows_agree(tmp_path, capsys):
    write(tmp_path, "again", FULL + FASTV)
    write(tmp_path, "before", FULL + FASTV)
    assert agreement.main([str(tmp_path / "again"), str(tmp_path / "before")]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "All 2 agree."
    (row,) = (line for line in out.splitlines() if line.startswith("| FastV"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[0] == "Samples, short answers" and cells[1].startswith("75.00 (") and cells[1] == cells[2]
    assert cells[3:] == ["40 of 40", "yes"]


def test_the_command_fails_where_one_does_not(tmp_path, capsys):
    write(tmp_path, "again", FULL + FASTV, {"full": 36, "FastV": 5})
    write(tmp_path, "before", FULL + FASTV)
    assert agreement.main([str(tmp_path / "again"), str(tmp_path / "before")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 of 2 do not agree: FastV (Samples, short answers)"
    assert [line.split("|")[-2].strip() for line in lines if line.startswith(("| full", "| FastV"))] == ["yes", "no"]


def shuffled(spec, metrics):
    metrics["scored"][TASK]["clusters"][:2] = [1, 0]
    return metrics


@pytest.mark.parametrize(
    ("again", "before", "complaint"),
    [
        ({"rows": FULL + RANDOM}, {"rows": FULL}, f"nano_f32_random_drop__{TASK}: not a row of before"),
        (
            {"rows": FULL, "change": lambda spec, metrics: None},
            {"rows": FULL},
            f"again/nano_f32_full__{TASK}: not run",
        ),
        (
            {"rows": FULL},
            {"rows": FULL, "change": lambda spec, metrics: {**metrics, "scored": {}}},
            f"before/nano_f32_full__{TASK}: no interval of Samples, short answers",
        ),
        (
            {"rows": FULL},
            {"rows": FULL, "change": shuffled},
            f"nano_f32_full__{TASK}: the two experiments asked about different videos",
        ),
        (
            {"rows": FULL},
            {"rows": FULL, "change": lambda spec, metrics: {**metrics, "fingerprint": {"data": "x", "prompts": "y"}}},
            f"nano_f32_full__{TASK}: the two experiments asked about different videos, or put other questions",
        ),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(tmp_path, capsys, again, before, complaint):
    write(tmp_path, "again", **again)
    write(tmp_path, "before", **before)
    with pytest.raises(SystemExit) as ended:
        agreement.main([str(tmp_path / "again"), str(tmp_path / "before")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {complaint}")


def test_a_column_that_the_other_has_not(tmp_path):
    write(tmp_path, "again", FULL)
    other = run_folders.write_experiment(tmp_path, "before", TEXT.replace("_short", "_long") + FULL)
    run_folders.write_runs(tmp_path, other, {"full": {"word_f1": 0.5}}, as_it_is)
    with pytest.raises(ValueError, match="before has no column nano_samples_short"):
        compared(tmp_path)


def test_an_experiment_that_is_not_there(tmp_path, capsys):
    for command, options in ((agreement, ()), (duration, ("--again", "x"))):
        with pytest.raises(SystemExit) as ended:
            command.main([*options, *([str(tmp_path / "none")] * (1 if options else 2))])
        assert ended.value.code == 2 and "none: no experiment was swept into" in capsys.readouterr().err


def test_time_is_that_of_the_samples_among_the_processes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(duration, "device", lambda cpu: "A GPU" if cpu else "Another GPU")
    seconds = {"full": 7200.0, "FastV": 3600.0, "random_drop": 60.0}

    def timed(spec, metrics):
        metrics["usage"]["seconds"] = seconds[spec.method.label]
        return metrics

    write(tmp_path / "results", "one", FULL + FASTV, change=timed)
    write(tmp_path / "results", "two", RANDOM, change=timed)
    where = [str(tmp_path / "results" / name) for name in ("one", "two")]
    assert duration.main(["--processes", "2", "--again", str(tmp_path / "again"), *where]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "one: 2 runs to be made, 80 samples, about 1:30:00",
        "two: 1 runs to be made, 40 samples, about 30.0 s",
        "In all about 1:30:30 with 2 processes, by the times measured on A GPU.",
    ]
    write(tmp_path / "again", "two", RANDOM)
    duration.main(["--again", str(tmp_path / "again"), where[1], where[0]])
    assert capsys.readouterr().out.splitlines() == [
        "two: all is there",
        "one: 2 runs to be made, 80 samples, about 3:00:00",
        "In all about 3:00:00 with one process, by the times measured on A GPU.",
    ]
    write(tmp_path / "again", "one", FULL + FASTV)
    duration.main(["--again", str(tmp_path / "again"), *where])
    assert capsys.readouterr().out.splitlines() == ["one: all is there", "two: all is there"]


def test_another_device_and_runs_that_nobody_made_are_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(duration, "device", lambda cpu: "CPU (x)" if cpu else "A GPU")
    write(tmp_path, "one", FULL + FASTV, change=lambda spec, metrics: metrics if spec.method.name == "full" else None)
    duration.main(["--again", str(tmp_path / "again"), str(tmp_path / "one")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "one: 2 runs to be made, 40 samples, about 12.0 s, and 1 of them of unknown time"
    assert lines[2] == "This machine would use CPU (x), which takes another time."


@pytest.mark.parametrize("count", ["0", "-1", "two"])
def test_processes_are_a_number(tmp_path, capsys, count):
    with pytest.raises(SystemExit) as ended:
        duration.main(["--processes", count, "--again", "x", str(tmp_path)])
    assert ended.value.code == 2 and "--processes" in capsys.readouterr().err
