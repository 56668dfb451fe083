"""The method that the page on adding one shows is whole, short, and found by everything that lists methods."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib

import pytest
import torch

import dycoke
from dycoke import bases, registry
from dycoke.families import Family
from dycoke.families.base import FamilyAdapter
from dycoke.types import VisualTokens
from tests.docs.pages import ROOT, blocks, cells, text_of

METHOD, MODULE = "docs/develop/method.md", "changes_of_a_page"
ARCHITECTURE = "docs/architecture.md"
(SOURCE,) = blocks("python", METHOD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("page")
    (path / f"{MODULE}.py").write_text(SOURCE)
    return path


@pytest.fixture
def added(folder, monkeypatch):
    dycoke.available()  # or the methods would be registered in the copy alone
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module(MODULE).Changes
    del sys.modules[MODULE]


def test_it_is_under_thirty_lines():
    assert len(SOURCE.splitlines()) < 30


def test_it_is_a_method(added):
    embeds = torch.ones(3, 4, 2)
    embeds[2, 1] = 5.0
    kept = dycoke.build("changes", keep=5 / 12).compress(VisualTokens(embeds, (2, 2)))
    assert kept.index.tolist() == [0, 1, 2, 3, 9] and torch.equal(kept.embeds, embeds.flatten(0, 1)[kept.index])
    with pytest.raises(ValueError, match=r"keep=0: expected a number in \(0, 1\]"):
        dycoke.build("changes", keep=0)


def test_the_bases_listed_are_those_there_are():
    listed = {row[0].strip("`"): re.findall(r"`(\w+)`", row[2]) for row in cells(METHOD) if row[0].startswith("`")}
    for name, writes in listed.items():
        base = getattr(bases, name)
        assert set(writes) - {"layer", "first_layer"} == set(base.__abstractmethods__), name
    stages = {name for name, each in vars(bases).items() if isinstance(each, type) and each.__dict__.get("plan")}
    assert stages <= set(listed) and stages


@pytest.mark.slow
def test_its_contract_is_found_and_passes(folder):
    """As the page says, in a process of its own where the file is imported before the tests are collected."""
    command = next(line for block in blocks("bash", METHOD) for line in block.splitlines() if "pytest" in line)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    arguments = [*command.split()[1:], "-p", MODULE, "-p", "no:cacheprovider", "-vv"]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for test in ("compress", "keeping_everything", "budget_follows_keep", "method_is_frozen"):
        assert any(f"::test_{test}" in line and "changes" in line for line in done.stdout.splitlines()), done.stdout


def test_what_the_page_on_families_names_is_there():
    """The parts of a family and the methods of its adapter, by the names in code spans of the steps."""
    page = text_of("docs/develop/family.md")
    for name in ("hook", "language_model", "visual", "compress", "prefill_inputs", "provides"):
        assert f"`{name}`" in page and hasattr(FamilyAdapter, name), name
    for name in ("supported", "architectures", "lmms_eval"):
        assert f"`{name}`" in page and name in Family.__dataclass_fields__, name
    for part in re.findall(r"\*\*`(\w+\.py)`\*\*", page):
        assert (ROOT / "dycoke" / "families" / "llava_onevision" / part).is_file(), part


def test_trips_are_as_long_as_their_lists():
    """The numbers in the table are those of the files listed under it, all of which are there."""
    section = text_of(ARCHITECTURE).partition("\n## Files a reader opens\n")[2]
    counts = [int(row[2]) for row in cells(ARCHITECTURE) if len(row) == 3 and row[2].isdigit()]
    lists = re.findall(r"^\*\*[\w ]+\*\*: (\d+) files.*?\n\n((?:`[\w./]+`[,.]\s)+)", section, re.MULTILINE | re.DOTALL)
    lengths = []
    for said, files in lists:
        named = re.findall(r"`([\w./]+)`", files)
        assert int(said) == len(set(named)) == len(named)
        assert all((ROOT / name).is_file() for name in named)
        lengths.append(len(named))
    step, kernels, k = lengths
    assert counts == [step + kernels, step, k]


def test_rooms_stand_in_the_order_of_the_contracts():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    there = {path.stem for path in (ROOT / "dycoke").iterdir()}
    layers = [[name for name in re.findall(r"\w+", layer) if name in there] for layer in contract["layers"]]
    (told,) = blocks("text", ARCHITECTURE)
    assert [re.findall(r"\w+", line) for line in told.splitlines()] == [layer for layer in layers if layer]


def test_every_room_has_a_line():
    rooms = {path.name for path in (ROOT / "dycoke").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms == {row[0].split("`")[1] for row in cells(ARCHITECTURE) if "](../dycoke/" in row[0]} & rooms
