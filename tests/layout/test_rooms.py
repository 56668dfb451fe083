"""The rooms stay what they are: small enough to look at, in one order, with one meaning for a name."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_FILES = 18


def python_files(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def test_no_folder_is_crowded():
    counts = Counter(file.parent.relative_to(ROOT).as_posix() for file in python_files("dycoke", "llava", "tests"))
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}
    assert counts["dycoke"] > 5 and counts["tests/core"] > 5


def test_a_plan_is_what_a_method_does_and_nothing_else():
    """The project's central word: kernels have tilings."""
    homes = defaultdict(list)
    for file in python_files("dycoke", "llava"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(file.relative_to(ROOT).as_posix())
    assert homes["Plan"] == ["dycoke/types.py"]
    assert len(homes["Tiling"]) == 2 and all(home.startswith("dycoke/ops/") for home in homes["Tiling"])


def lint(folder: Path) -> subprocess.CompletedProcess:
    """import-linter on the packages in a folder."""
    pytest.importorskip("importlinter")
    command = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache', '--no-logo'])"
    return subprocess.run([sys.executable, "-c", command], cwd=folder, capture_output=True, text=True)


def test_no_room_imports_one_above_it():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


UPWARD = {
    "dycoke/kv_cache/layer.py": ("dycoke.stages.masks", "dycoke.kv_cache is not allowed to import dycoke.stages"),
    "dycoke/lab/jsonl.py": ("dycoke.eval.benchmarks", "dycoke.lab is not allowed to import dycoke.eval"),
    "dycoke/ask/tables.py": ("dycoke.bench.timing", "dycoke.ask is not allowed to import dycoke.bench"),
    "dycoke/methods/fastv.py": ("llava.context", "dycoke.methods is not allowed to import llava"),
    "llava/context.py": ("dycoke.registry", "llava is not allowed to import dycoke"),
    "dycoke/families/llava/sizes.py": (
        "dycoke.families.llava_onevision.sizes",
        "dycoke.families.llava is not allowed to import dycoke.families.llava_onevision",
    ),
    "dycoke/eval/runs/job.py": ("dycoke.eval.launch.sweep", "dycoke.eval.runs is not allowed to import dycoke.eval.la"),
    "dycoke/somewhere.py": ("dycoke.version", "- dycoke.somewhere (Since this contract is marked as 'exhaustive'"),
}


def test_an_upward_import_is_seen(tmp_path):
    """Each of these would be one, within a function as well; a file without a place among the rooms is told too."""
    for name in ("dycoke", "llava"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=lambda _, names: [n for n in names if not is_source(n)])
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, (module, _) in UPWARD.items():
        with (tmp_path / file).open("a") as source:
            source.write(f"\n\ndef upward():\n    import {module}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert [complaint for _, complaint in UPWARD.values() if complaint not in said] == []


def is_source(name: str) -> bool:
    return name.endswith(".py") or "." not in name


def test_every_folder_with_code_is_a_package():
    """`find_packages` installs those with an `__init__.py` alone."""
    tasks = ROOT / "dycoke" / "eval" / "tasks"  # data for lmms-eval, which loads it by its path
    folders = {file.parent for file in python_files("dycoke", "llava") if not file.is_relative_to(tasks)}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
