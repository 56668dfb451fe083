"""Numbers in results/README.md are those of the runs beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean

import pytest

from dycoke.eval.report.bootstrap import difference, interval
from dycoke.eval.report.results import read_results
from dycoke.lab.cost import measured, retained
from dycoke.nano.generator import FAMILIES
from tests.cases import folded

RESULTS = Path(__file__).resolve().parents[2] / "results"
LAYERS, TOKENS = 8, 512
README = RESULTS / "README.md"
PROSE = re.sub(r"\s+", " ", README.read_text())

DIFFERENCES = {  # words before the number -> experiment, better run, worse run
    "K = .7 is": ("table1", "dycoke-k0.7-l1-p0.7", "fastv-k1-r0.65"),
    "at as many tokens, and": ("table1", "dycoke-k0.7-l1-p0.7", "prumerge-keep0.55"),
    "random dropping at 50 % 94.4: a difference of": ("table1", "dycoke-k0.65-l1-p0.7", "random_drop-keep0.5"),
    "one whole frame of four; it is": ("table1", "random_drop-keep0.25", "dycoke-k1.0-l1-p0.7"),
    "79.1. FastVID is": ("table1", "fastvid-keep0.25", "dycoke_adaptive-keep0.25"),
    "66.4 (62.8, 69.6):": ("table1", "fastvid-keep0.25", "pdrop-layers1-3-5-keep0.336"),
    "Original is better for random dropping by": (
        "table1",
        "random_drop-keep0.5-positionsoriginal",
        "random_drop-keep0.5",
    ),
    "at 50 %,": ("table1", "random_drop-keep0.25-positionsoriginal", "random_drop-keep0.25"),
    "at 25 % and": ("table1", "random_drop-keep0.1-positionsoriginal", "random_drop-keep0.1"),
    "FastVID at 25 % loses": ("table1", "fastvid-keep0.25", "fastvid-keep0.25-positionspacked"),
    "of what a step reads:": ("table5", "dycoke-k0.7-l1-p0.7", "dycoke-k0.7-l1-p0.7-decodeone_shot"),
    "at K = .7, P = .7;": ("table5", "dycoke-k0.7-l1-p0.9", "dycoke-k0.7-l1-p0.9-decodeone_shot"),
    "at P = .9;": ("table5", "dynamic_pruning-layer1-p0.9", "dynamic_pruning-layer1-p0.9-decodeone_shot"),
    "dynamic is ahead by": ("table5", "dycoke-k0.7-l1-p0.7", "dycoke-k0.7-l1-p0.7-decoderandom"),
    "P = .7 and by": ("table5", "dycoke-k0.7-l1-p0.9", "dycoke-k0.7-l1-p0.9-decoderandom"),
    "without merging at P = .9 it is": (
        "table5",
        "dynamic_pruning-layer1-p0.9-decoderandom",
        "dynamic_pruning-layer1-p0.9",
    ),
}
SCORES = {  # words before a score -> experiment and run
    "K = .65 (48 % of the tokens) scores": ("table1", "dycoke-k0.65-l1-p0.7"),
    "random dropping at 50 %": ("table1", "random_drop-keep0.5"),
    "At 25 %: FastVID": ("table1", "fastvid-keep0.25"),
    "`dycoke_adaptive`": ("table1", "dycoke_adaptive-keep0.25"),
    "VisionZip": ("table1", "visionzip-keep0.25"),
    "; random": ("table1", "random_drop-keep0.25"),
    "(FastV": ("table1", "fastv-k1-r0.857"),
    "SparseVLM": ("table1", "sparsevlm-keep0.165-layers0-1-3"),
    "and PyramidDrop,": ("table1", "pdrop-layers1-3-5-keep0.336"),
    "a late L cost less**:": ("table5", "dycoke-k0.7-l1-p0.5"),
    "at P = .5 and": ("table5", "dycoke-k0.7-l5-p0.7"),
    "But L = 3 has": ("table5", "dycoke-k0.7-l3-p0.7"),
}


QUARTER = (  # methods that compress the prompt to about a quarter
    "random_drop-keep0.25",
    "uniform_frames-keep0.25",
    "dycoke-k1.0-l1-p0.7",
    "dycoke_adaptive-keep0.25",
    "fastv-k1-r0.857",
    "fastvid-keep0.25",
    "flashvid-keep0.25-layer6-inner_keep0.2",
    "framefusion-cost0.25",
    "holitom-keep0.29-layer5",
    "pdrop-layers1-3-5-keep0.336",
    "prumerge-keep0.25",
    "prumerge_plus-keep0.25",
    "prunevid-tau0.75-layer3",
    "sparsevlm-keep0.165-layers0-1-3",
    "vidcom2-keep0.25",
    "visionzip-keep0.25",
)


def scored(experiment: str, run: str) -> dict:
    file = RESULTS / f"nano_{experiment}" / f"nano_f32_{run}__nanovideo" / "metrics.json"
    return json.loads(file.read_text())["scored"]


def score(leaves: dict) -> float:
    means = [sum(leaf["values"]["score"]) / len(leaf["values"]["score"]) for leaf in leaves.values()]
    return 100 * sum(means) / len(means)


@folded("words", DIFFERENCES)
def test_differences_and_their_intervals(words):
    experiment, better, worse = DIFFERENCES[words]
    one, other = scored(experiment, better), scored(experiment, worse)
    low, high = (100 * end for end in difference(one, other, "score"))
    told = re.escape(f"{words} {score(one) - score(other):.1f} ({low:.1f}, {high:.1f})")
    assert re.search(told, PROSE), told


@pytest.mark.parametrize("words", SCORES)
def test_scores(words):
    assert f"{words} {score(scored(*SCORES[words])):.1f}" in PROSE


def tables() -> dict[str, list[str]]:
    """The rows of all tables: cells by the label in front."""
    lines = [line.split("|") for line in README.read_text().splitlines() if "|" in line]
    return {line[1].strip(): [cell.strip() for cell in line[2:-1]] for line in lines}


def test_the_rows_of_table_1():
    names = ["full", "fastv-k1-r0.65", "prumerge-keep0.55", *(f"dycoke-k{k}-l1-p0.7" for k in (0.3, 0.5, 0.7))]
    rows = tables()
    assert [float(cell) for cell in rows["score"]] == [round(score(scored("table1", name)), 1) for name in names]
    runs = {run.spec.method.slug: run for run in read_results("nano_table1", RESULTS).complete}
    shares = [100 * retained(measured(runs[n].metrics["usage"], LAYERS), TOKENS) for n in names]
    assert rows["tokens"] == [f"{share:.1f} %".replace("100.0", "100") for share in shares]


def test_the_benchmark_tells_methods_apart():
    """The best and the worst that leave about a quarter of the prompt, further apart than the interval of that."""
    of = {name: scored("table1", name) for name in QUARTER}
    ranked = sorted(QUARTER, key=lambda name: score(of[name]), reverse=True)
    assert (ranked[0], ranked[-1]) == ("fastvid-keep0.25", "pdrop-layers1-3-5-keep0.336")
    assert (ranked.index("random_drop-keep0.25"), len(ranked)) == (7, 16) and "eighth of sixteen" in PROSE
    best, worst = of[ranked[0]], of[ranked[-1]]
    low, high = difference(best, worst, "score")
    assert 0 < high - low < low
    assert interval(best, "score")[0] > interval(worst, "score")[1]


def test_the_rows_of_figure_5():
    rows = {label: [float(cell) for cell in cells] for label, cells in tables().items() if label.endswith(" frames")}
    assert list(rows) == ["8 frames", "16 frames", "32 frames", "64 frames"]
    names = ["full", *(f"dycoke-k{k}-l1-p0.7" for k in (0.3, 0.5, 0.7, 0.9))]
    runs = tuple(read_results("nano_fig5", RESULTS).complete)
    found = {(run.spec.frames, run.spec.method.slug): score(run.metrics["scored"]) for run in runs}
    for told, frames in zip(rows.values(), (8, 16, 32, 64), strict=True):
        assert told == [round(found[frames, name], 1) for name in names]
    lost = [found[frames, "full"] - found[frames, names[3]] for frames in (8, 16, 32, 64)]
    assert (
        "K = .7 costs {:.1f}, {:.1f} and {:.1f} points at 8, 16 and 32 frames, at 64 frames {:.1f}.".format(*lost)
        in PROSE
    )
    for frames, name, words in (
        (64, names[4], "(304 tokens)"),
        (32, names[3], "(224 tokens)"),
        (16, "full", "(256 tokens) score"),
    ):
        (run,) = (run for run in runs if (run.spec.frames, run.spec.method.slug) == (frames, name))
        assert f"({run.metrics['usage']['visual_kept']:.0f} tokens)" in words
        assert f"{words} {found[frames, name]:.1f}" in PROSE


def family(run: str, name: str, experiment: str = "table1") -> float:
    return score({name: scored(experiment, run)[f"nanovideo_{name}"]})


def test_what_single_families_lose():
    least = min(family(run, name) for run in QUARTER for name in ("state", "position", "direction"))
    assert f"in {least:.0f} % or more by every method" in PROSE
    digits = [family(run, "digits") for run in ("vidcom2-keep0.25", "fastvid-keep0.25")]
    assert "digits are read right in {:.0f} % (VidCom2) to {:.0f} % (FastVID)".format(*digits) in PROSE
    merged = "dycoke-k0.7-l1-p0.7"
    details = [family(merged, name) for name in ("digits", "flash_count")]
    others = min(family(merged, n) for n, f in FAMILIES.items() if not f.long and n not in ("digits", "flash_count"))
    assert "digits {:.0f} %, lamp flashes {:.0f} %, all others {:.0f} % or more".format(*details, others) in PROSE
    events = [family(f"{merged}{once}", "events", "table5") for once in ("", "-decodeone_shot")]
    assert "events in order fall from {:.1f} to {:.1f}".format(*events) in PROSE
    long = fmean(family("dycoke-k0.3-l1-p0.7", name) for name in ("events", "transcript"))
    assert f"all are lost in the long answers: {long:.1f} there" in PROSE


def test_what_pruning_while_decoding_costs():
    lost = [100 - score(scored("table1", f"dynamic_pruning-layer1-p{p}")) for p in (0.5, 0.75, 0.9)]
    assert (
        "reading half of them in a step costs {:.1f} of the score, a quarter {:.1f}, a tenth {:.1f}".format(*lost)
        in PROSE
    )
