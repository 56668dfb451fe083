"""A method is one file and one import line: everything that lists methods then has it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dycoke
from dycoke import cli, registry
from dycoke.ask.methods import chosen_methods
from dycoke.bench.compress.methods import chosen_names
from dycoke.types import VisualTokens
from tests.core.methods import test_contract as contract
from tests.support.stage_one import check_contract, check_identity, clip

ROOT = Path(__file__).resolve().parents[3]
NAME, MODULE = "first_tokens", "first_tokens_of_a_stranger"
SOURCE = '''"""First tokens: the start of every frame, whatever it shows."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from dycoke import budget
from dycoke.registry import register
from dycoke.types import Compressed, Plan, Positions, VisualTokens, check_positions


@register(
    "first_tokens",
    source="a test",
    paper="https://example.org/first",
    retention="keep, of every frame",
    official="keep=.5",
    deviations=("None that a test would know of, because nothing was published.",),
)
@dataclass(frozen=True)
class FirstTokens:
    """Keep the first tokens of every frame."""

    keep: float = field(default=0.5, metadata={"help": "share of a frame that is kept, in (0, 1]"})
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})

    needs: ClassVar[frozenset[str]] = frozenset()
    min_frames: ClassVar[int] = 1
    raster: ClassVar[bool] = True

    def __post_init__(self) -> None:
        budget.check_ratio("keep", self.keep, above_zero=True)
        check_positions(self.positions)

    def plan(self) -> Plan:
        return Plan(before=self)

    def compress(self, video: VisualTokens) -> Compressed:
        frames, tokens = video.embeds.shape[:2]
        slots = torch.arange(frames * tokens, device=video.embeds.device).view(frames, tokens)
        index = slots[:, : budget.from_keep(self.keep, tokens)].flatten()
        return Compressed(video.embeds.flatten(0, 1).index_select(0, index), index)

    def count(self, frames: int, per_frame: int) -> int:
        return frames * budget.from_keep(self.keep, per_frame)
'''

SCORING = "loudest_of_a_stranger"
LOUDEST = '''"""Loudest: the tokens of a video with the largest norm."""

from dataclasses import dataclass, field

from torch import Tensor

from dycoke import budget
from dycoke.bases import TopScores
from dycoke.registry import register
from dycoke.types import VisualTokens


@register("loudest", source="a test", retention="keep", official="none: nothing was published")
@dataclass(frozen=True)
class Loudest(TopScores):
    """Keep the tokens with the largest norm."""

    keep: float = field(default=0.25, metadata={"help": "share of the visual tokens kept, in (0, 1]"})

    def score(self, video: VisualTokens) -> Tensor:
        return video.embeds.float().norm(dim=2)

    def count(self, frames: int, per_frame: int) -> int:
        return budget.from_keep(self.keep, frames * per_frame)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    assert len(SOURCE.splitlines()) < 60
    path = tmp_path_factory.mktemp("stranger")
    (path / f"{MODULE}.py").write_text(SOURCE)
    assert len(LOUDEST.splitlines()) < 30
    (path / f"{SCORING}.py").write_text(LOUDEST)
    return path


@pytest.fixture
def added(folder, monkeypatch):
    """The method is registered, by importing its file, for the length of a test."""
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module(MODULE).FirstTokens
    del sys.modules[MODULE]


@pytest.fixture
def scoring(folder, monkeypatch):
    """A method that only scores is registered for the length of a test."""
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module(SCORING).Loudest
    del sys.modules[SCORING]


@pytest.mark.parametrize("count", [1, 5, 12])
def test_a_method_that_scores_is_a_score_and_a_count(scoring, count):
    embeds = torch.ones(3, 4, 2)
    embeds[2, 1], embeds[0, 3], embeds[1, 0] = 9.0, 8.0, -7.0
    method = dycoke.build("loudest", keep=count / 12)
    assert method == scoring(count / 12) and method.plan() == dycoke.Plan(before=method)
    kept = method.compress(VisualTokens(embeds, (2, 2)))
    assert kept.index.tolist() == {1: [9], 5: [0, 1, 3, 4, 9], 12: list(range(12))}[count]  # ties: the lower slot
    assert torch.equal(kept.embeds, embeds.flatten(0, 1)[kept.index])


def test_a_method_that_scores_is_one_like_all_others(scoring):
    assert "loudest" in contract.stage_one() and "loudest" in chosen_names(None)
    row = registry.entry("loudest")
    assert (row.stages, row.needs, row.positions) == (("before",), (), "packed")
    for frames in contract.FRAMES:
        check_contract(scoring(), clip(frames))
        check_identity(scoring(1.0), clip(frames))
    with pytest.raises(ValueError, match="keep=0: expected a number in"):
        dycoke.build("loudest", keep=0)


def test_a_score_of_another_shape_is_refused(scoring):
    class Flat(scoring):
        def score(self, video):
            return super().score(video).flatten()

    with pytest.raises(ValueError, match=r"Flat.score of shape \[60\]: expected \[3, 20\]"):
        Flat().compress(clip(3))


def test_it_is_not_there_before():
    assert NAME not in dycoke.available()


def test_the_registry_has_it(added):
    assert NAME in dycoke.available()
    assert dycoke.build(NAME, keep=0.25) == added(0.25)
    row = registry.entry(NAME)
    assert (row.summary, row.stages, row.positions) == ("Keep the first tokens of every frame.", ("before",), "packed")


@pytest.mark.parametrize("arguments", [(), (NAME,), (NAME, "--markdown")])
def test_the_command_lists_it(added, capsys, monkeypatch, arguments):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["methods", *arguments]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for text in (NAME, "Keep the first tokens of every frame.", "keep, of every frame", "keep=.5", "None that a test"):
        assert text in said
    assert "https://example.org/first" in said
    option = "| `keep` | `0.5` |" if "--markdown" in arguments else "keep = 0.5"
    assert f"{option} share of a frame that is kept" in said
    assert cli.main(["methods", "--markdown"]) == 0
    assert f"[`{NAME}`]({NAME}.md) | Keep the first tokens of every frame. | before |" in capsys.readouterr().out


def test_the_command_takes_it(added):
    assert chosen_methods(NAME, [], {}, ["keep=0.25"]) == {NAME: added(0.25)}
    assert chosen_methods(None, [f"full,{NAME}"], {}, []) == {"full": dycoke.build("full"), NAME: added()}
    assert NAME in chosen_names(None)


def test_a_plan_in_yaml_takes_it(added, tmp_path):
    (tmp_path / "plan.yaml").write_text(f"before: {{name: {NAME}, keep: 0.25}}\ndecode: dycoke\n")
    plan = dycoke.load_plan(tmp_path / "plan.yaml")
    assert plan == dycoke.Plan(added(0.25), None, dycoke.build("dycoke").plan().decode)
    with pytest.raises(ValueError, match=f"methods with 'before': .*{NAME}"):
        dycoke.build_plan({"before": "dynamic_pruning"})


def test_the_contract_lists_it(added):
    assert set(contract.compressors()) - set(contract.METHODS) == {NAME, f"{NAME}-original"}
    assert set(contract.stage_one()) - set(contract.STAGE_ONE) == {NAME}


@pytest.mark.slow
def test_the_contract_test_runs_it(folder):
    """In a process of its own, where the file is imported before the tests are collected."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        MODULE,
        "-p",
        "no:cacheprovider",
        "tests/core/methods/test_contract.py",
    ]
    done = subprocess.run(
        [*command, "-vv", "-k", NAME], cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for test in ("compress", "keeping_everything", "budget_follows_keep", "method_is_frozen"):
        assert any(f"::test_{test}" in line and NAME in line for line in done.stdout.splitlines()), done.stdout
