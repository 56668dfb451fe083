"""A method is deleted by removing its file and the line that imports it: everything else goes on as before."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dycoke
from tests.support.without import FOLDER, METHODS, available_without, files

SEVERAL = {"prumerge": {"prumerge", "prumerge_plus"}}  # what a file holds beside the method of its name


@pytest.mark.parametrize("file", files())
def test_without_its_file_a_method_is_gone_and_all_others_are_there(file):
    assert set(dycoke.available()) - set(available_without(file)) == SEVERAL.get(file, {file})


def test_every_method_has_a_file():
    assert set(dycoke.available()) == {name for file in files() for name in SEVERAL.get(file, {file})}


def names_methods(path: Path) -> set[str]:
    """Modules and names of `dycoke.methods` that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith(f"{METHODS}.")}


def test_nothing_imports_a_method_by_name():
    """But the list of them: what several methods share lies in `dycoke.bases`."""
    paths = [path for folder in (FOLDER, FOLDER.parent / "llava") for path in folder.rglob("*.py")]
    named = {path.relative_to(FOLDER.parent).as_posix(): names_methods(path) for path in paths}
    assert len(named.pop("dycoke/methods/__init__.py")) >= len(files())
    assert not {path: sorted(names) for path, names in named.items() if names}
