"""Plots of a report carry the numbers of its tables; read off the figures' own lines and bars."""

from __future__ import annotations

from collections import defaultdict

import pytest

from dycoke.eval.report import plots
from dycoke.eval.report.results import read_results
from tests.eval.report.report_cases import SCORES, SMALL, small, table_of, texts


def results(tmp_path, **kwargs):
    small(tmp_path, **kwargs)
    return read_results("small", tmp_path)


def lines_of(axes):
    return {line.get_label(): [list(map(float, data)) for data in line.get_data()] for line in axes.get_lines()}


def test_bars_are_the_means_the_peaks_and_the_latencies(tmp_path):
    figure = plots.bars(results(tmp_path))
    widths = [[bar.get_width() for bar in axes.patches] for axes in figure.axes]
    assert [f"{width:.2f}" for width in widths[0]] == texts(table_of(tmp_path), "Mean (%)")
    assert widths[1] == [3.0] * 5
    assert widths[2] == pytest.approx([1.5, 1.5, 1.05, 0.45, 1.5])  # 36, 25.2 and 10.8 s over 24 samples
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["full", "FastV", "K=0.3", "K=0.7", "Random"]
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top  # so that the first method is on top
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "Mean score over 3 columns (%)",
        "Peak memory (GiB)",
        "Latency (s/example)",
    ]


def test_what_was_not_measured_has_no_bar(tmp_path):
    def change(spec, metrics):
        metrics["usage"]["peak_bytes"] = None
        return None if spec.method.label == "Random" and spec.task == "mvbench" else metrics

    scores, peaks, latencies = plots.bars(results(tmp_path, change=change)).axes
    assert [text.get_text() for text in peaks.texts] == ["not measured"] and not peaks.patches
    assert [text.get_text() for text in scores.texts][-1] == "-"
    assert [text.get_text() for text in latencies.texts][-1] == "-"


def test_memory_is_the_highest_of_the_tasks(tmp_path):
    def change(spec, metrics):
        metrics["usage"]["peak_bytes"] = (5 if spec.task == "nextqa_mc_test" else 2) * 2**30
        return metrics

    peaks = plots.bars(results(tmp_path, change=change)).axes[1]
    assert [bar.get_width() for bar in peaks.patches] == [5.0] * 5


def test_each_group_has_its_bars(tmp_path):
    figure = plots.bars(results(tmp_path, text=SMALL.replace("frames: 32", "frames: [16, 32]")))
    assert [axes.get_title().rpartition(", ")[2] for axes in figure.axes] == ["16 frames"] * 3 + ["32 frames"] * 3


def test_curves_over_frames(tmp_path):
    def change(spec, metrics):
        if spec.frames == 8:
            metrics["scores"] = {
                leaf: {name: given / 2 for name, given in each.items()} for leaf, each in metrics["scores"].items()
            }
        return metrics

    text = SMALL.replace("frames: 32", "frames: [32, 8]").replace('label: "K={k}"', 'label: "K={k}, {frames}"')
    named = {f"{label}, {frames}": SCORES[label] for label in ("K=0.3", "K=0.7") for frames in (8, 32)}
    found = results(tmp_path, change=change, text=text, scores=SCORES | named)
    (axes,) = plots.score_against_frames(found).axes
    lines = lines_of(axes)
    assert list(lines) == ["full", "FastV", "K=0.3, 8", "K=0.7, 8", "Random"]  # one curve a method
    mean = (60 + 90 + 45) / 3
    assert lines["full"] == [[8, 32], pytest.approx([mean / 2, mean])]
    assert axes.get_xlabel() == "Frames" and axes.get_title() == "llava-onevision-qwen2-7b-ov"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["8", "32"]


def test_one_number_of_frames_makes_no_curve(tmp_path):
    assert plots.score_against_frames(results(tmp_path)) is None


def test_a_family_is_a_line_over_what_is_retained(tmp_path):
    (axes,) = plots.score_against_retention(results(tmp_path)).axes
    lines = lines_of(axes)
    assert list(lines) == ["full", "fastv", "dycoke", "random_drop"]
    means = [float(text) for text in texts(table_of(tmp_path), "Mean (%)")]
    assert lines["dycoke"] == [pytest.approx([9.0, 21.0]), pytest.approx([means[3], means[2]], abs=0.01)]
    assert lines["fastv"] == [[50.0], pytest.approx([means[1]], abs=0.01)]
    assert len({line.get_marker() for line in axes.get_lines()}) == 4


def test_rows_of_another_kind_are_another_family(tmp_path):
    text = SMALL + "  - {name: dycoke, k: 0.5, p: 0.7, decode: random, label: Random}\n"
    scores = defaultdict(lambda: SCORES["Random"], SCORES)  # two rows of one label are told apart
    (axes,) = plots.score_against_retention(results(tmp_path, text=text, scores=scores)).axes
    lines = lines_of(axes)
    assert list(lines) == ["full", "fastv", "dycoke", "random_drop", "dycoke decode=random"]
    assert lines["dycoke"][0] == pytest.approx([9.0, 21.0]) and lines["dycoke decode=random"][0] == [
        pytest.approx(15.0)
    ]


def test_a_lone_column_of_another_unit_is_drawn_as_it_is(tmp_path):
    text = SMALL.replace("[activitynetqa, nextqa_mc_test, mvbench]", "[video_dc499]")
    (axes,) = plots.score_against_retention(results(tmp_path, text=text)).axes
    assert axes.get_ylabel() == "VideoDC" and lines_of(axes)["full"][1] == [3.0]


def test_nothing_complete_draws_nothing(tmp_path):
    found = results(tmp_path, change=lambda spec, metrics: None)
    assert [draw(found) for draw in (plots.bars, plots.score_against_frames, plots.score_against_retention)] == [
        None
    ] * 3


def test_a_label_is_no_formula(tmp_path):
    nasty = {"FastV": r"$\nothing$ 5 %"}
    text = SMALL.replace("label: FastV", r"label: '$\nothing$ 5 %'").replace("A small table", r"$\nothing$")
    found = results(tmp_path, text=text, scores={nasty.get(label, label): given for label, given in SCORES.items()})
    for name, draw in {"bars": plots.bars, "retention": plots.score_against_retention}.items():
        draw(found).savefig(tmp_path / f"{name}.png")
