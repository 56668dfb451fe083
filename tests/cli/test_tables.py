"""What people read of a report: its text, the table of one request and the comparison of several."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from dycoke.ask.tables import comparison_table, report_table
from dycoke.offline.answer import Answer
from dycoke.report import Report, Stage
from dycoke.report.usage import CacheReport, InsideReport

MIB = 2**20
STAGES = {
    "vision": Stage(512, 12.0, 30 * MIB),
    "compress": Stage(224, 0.5, 31 * MIB),
    "prefill": Stage(251, 9.0, 40 * MIB),
    "decode": Stage(44, 88.0, 41 * MIB),
}
ON_DEVICE = CacheReport(8, 3, 44, 273.5, 116.25, 43, 5 * MIB // 2, 0, 0)
ON_HOST = CacheReport(8, 3, 44, 273.5, 116.25, 43, 5 * MIB // 2, 7 * MIB, 1 * MIB)
NO_STEP = CacheReport(8, 7, 0, None, None, None, MIB, 0, 0)


def report(cache: CacheReport | None, method: str = "dycoke") -> Report:
    return Report(method, 32, STAGES, cache, loop="engine")


def table_lines(renderable) -> list[list[str]]:
    shown = StringIO()
    Console(file=shown, width=120).print(renderable)
    return [line.split() for line in shown.getvalue().splitlines()]


def told(cache: CacheReport | None) -> list[str]:
    """The lines about the cache in a report's text, which its table has too."""
    text = str(report(cache)).splitlines()
    assert [line.split()[0] for line in text[1:6]] == ["stage", "vision", "compress", "prefill", "decode"]
    table = table_lines(report_table(report(cache)))
    assert text[-1] == "decoded by: engine"
    assert text[-1].split() in table
    assert all(line.replace(": ", " ").split() in table for line in text[6:-1])
    return text[6:-1]


def test_tokens_that_leave_inside():
    inside = (InsideReport(2, 256), InsideReport(4, 128))
    pruned = Report("pdrop", 32, STAGES, ON_DEVICE, inside=inside)
    assert str(pruned).splitlines()[6:8] == ["visual tokens from layer 2 on: 256", "visual tokens from layer 4 on: 128"]
    assert ["visual", "tokens", "from", "layer", "4", "on", "128"] in table_lines(report_table(pruned))
    full = report(None, "full")
    compared = table_lines(comparison_table({"pdrop": Answer("a", pruned), "full": Answer("b", full)}))
    assert ["visual", "tokens", "inside", "256", "from", "layer", "2", "on", "-"] in compared
    assert ["128", "from", "layer", "4", "on"] in compared
    assert not any("inside" in line for line in table_lines(comparison_table({"full": Answer("b", full)})))


def test_the_headline_of_a_method_inside_is_the_mean_over_the_layers():
    """As the report of an experiment has it: 512 of 512 enter two of the 8 layers, 256 two more, 128 the last four."""
    stages = STAGES | {"compress": Stage(512, 0.5, None)}
    pruned = Report("pdrop", 32, stages, ON_DEVICE, inside=(InsideReport(2, 256), InsideReport(4, 128)))
    share = f"{100 * (2 * 512 + 2 * 256 + 4 * 128) / 8 / 512}%"
    headline = f"pdrop: 32 frames, {share} of the visual tokens read per layer on average (mean over 8 layers)"
    assert share == "50.0%" and table_lines(report_table(pruned))[0] == headline.split()
    compared = table_lines(comparison_table({"pdrop": Answer("a", pruned), "dycoke": Answer("b", report(ON_DEVICE))}))
    assert ["share", "kept,", "mean", "of", "layers", "50.0%", "43.8%"] in compared
    assert table_lines(report_table(report(ON_DEVICE)))[0] == [
        "dycoke:",
        "32",
        "frames,",
        "43.8%",
        "of",
        "the",
        "visual",
        "tokens",
        "kept",
    ]
    assert ["share", "kept", "43.8%"] in table_lines(comparison_table({"dycoke": Answer("b", report(ON_DEVICE))}))


def test_an_answer_that_was_cut_is_marked():
    mark = "by --max-new-tokens"
    assert f"answer cut: {mark}".split() in table_lines(report_table(report(None), cut=True))
    compared = table_lines(comparison_table({"a": Answer("a", report(None), cut=True), "b": Answer("b", report(None))}))
    assert ["answer", "cut", *mark.split(), "-"] in compared
    whole = [*table_lines(report_table(report(None))), *table_lines(comparison_table({"a": Answer("a", report(None))}))]
    assert not any("cut" in line for line in whole)


def test_counts_of_one_are_in_the_singular():
    stages = STAGES | {"decode": Stage(1, 2.0, None)}
    once = Report("dycoke", 32, stages, replace(ON_DEVICE, selections=1))
    assert "visual tokens chosen anew: once in 1 decoded token\n" in str(once)


def test_no_cache_no_line():
    assert told(None) == []
    assert not any("KV" in line for line in table_lines(report_table(report(None))))


def test_cache_on_the_device():
    assert told(ON_DEVICE) == [
        "tokens read a step, layers 0-2: 273.5",
        "tokens read a step, layers 3-7: 116.2",
        "visual tokens chosen anew: 43 times in 44 decoded tokens",
        "KV cache: 2.5 MiB on the device",
    ]


def test_cache_on_the_host():
    assert told(ON_HOST)[-1] == "KV cache: 2.5 MiB on the device, 7.0 MiB on the host, 1.0 MiB fetched back"


def test_no_step_and_one_layer():
    assert told(NO_STEP) == [
        "tokens read a step, layers 0-6: -",
        "tokens read a step, layer 7: -",
        "KV cache: 1.0 MiB on the device",
    ]


@pytest.mark.parametrize(
    ("caches", "expected"),
    [
        ([None, None], []),
        (
            [None, ON_DEVICE],
            [
                ["read/step", "below", "L", "-", "273.5"],
                ["read/step", "from", "L", "-", "116.2"],
                ["chosen", "anew", "-", "43"],
                ["KV", "MiB", "device", "-", "2.5"],
            ],
        ),
        (
            [ON_HOST, NO_STEP],
            [
                ["read/step", "below", "L", "273.5", "-"],
                ["read/step", "from", "L", "116.2", "-"],
                ["chosen", "anew", "43", "-"],
                ["KV", "MiB", "device", "2.5", "1.0"],
                ["KV", "MiB", "host", "7.0", "0.0"],
                ["KV", "MiB", "fetched", "1.0", "0.0"],
            ],
        ),
    ],
)
def test_comparison(caches, expected):
    answers = {name: Answer("yes", report(cache)) for cache, name in zip(caches, "ab", strict=True)}
    lines = [line for line in table_lines(comparison_table(answers)) if line]
    last = lines.index(["decoded", "by", "engine", "engine"])
    assert lines[last - 1] == ["peak", "MiB", "41", "41"]
    assert lines[last + 1 :] == expected
