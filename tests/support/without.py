"""What is left of DyCoke without one of its methods, found out in a fork of this process.

There, the file and the line that imports it are gone, DyCoke is imported anew, and every other method shows what it
can do. torch and transformers are there already: a fork takes half a second.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import json
import os
import pkgutil
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

METHODS = "dycoke.methods"
FOLDER = Path(__file__).resolve().parents[2] / "dycoke"


def files() -> list[str]:
    """The files of methods, by their modules' names: those that others share begin with an underscore."""
    return [each.name for each in pkgutil.iter_modules([str(FOLDER / "methods")]) if not each.name.startswith("_")]


def modules() -> list[str]:
    """Every module of DyCoke but those of `dycoke.eval`, which import lmms-eval for 12 s."""
    found = (path.relative_to(FOLDER.parent) for path in sorted(FOLDER.rglob("*.py")) if path.name != "__main__.py")
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in found]
    return [name for name in names if not name.startswith("dycoke.eval.")]


class Without(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Hides a method's file, and the line of `dycoke.methods` that imports it."""

    def __init__(self, method: str) -> None:
        self._hidden = f"{METHODS}.{method}"

    def find_spec(self, name, path=None, target=None):
        if name == self._hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name != METHODS:
            return None
        return importlib.util.spec_from_loader(name, self, is_package=True)

    def exec_module(self, module) -> None:
        lines = (FOLDER / "methods" / "__init__.py").read_text(encoding="utf-8").splitlines()
        left = [line for line in lines if not line.startswith(f"from {self._hidden} import")]
        if len(left) != len(lines) - 1:
            raise AssertionError(f"{METHODS} imports {self._hidden} in {len(lines) - len(left)} lines, not in one")
        module.__path__ = [str(FOLDER / "methods")]
        exec(compile("\n".join(left), f"{METHODS} without {self._hidden}", "exec"), vars(module))


def look(method: str) -> list[str]:
    """The methods registered without a file, once everything else is imported and has shown what it can do."""
    torch.set_num_threads(1)  # the others have stayed behind
    for name in [name for name in sys.modules if name.split(".")[0] in ("dycoke", "llava")]:
        del sys.modules[name]
    sys.meta_path.insert(0, Without(method))
    for name in modules():
        if name != f"{METHODS}.{method}":
            importlib.import_module(name)
    available = sys.modules["dycoke.registry"].available()
    for name in available:
        show(name)
    return available


def show(name: str) -> None:
    """A method's plan and its row, and a video through its compressor."""
    import dycoke
    from dycoke.registry import entry

    row, plan = entry(name), dycoke.build(name).plan()
    assert row.summary and row.stages and row.positions
    generator = torch.Generator().manual_seed(0)
    size = (8, 9)
    embeds, keys = (torch.randn(*size, dim, generator=generator) for dim in (16, 4))
    saliency = torch.rand(size, generator=generator)
    before = plan.compressor
    kept = before.compress(dycoke.VisualTokens(embeds, (3, 3), saliency, keys))
    count = before.count(*size)
    assert len(kept.index) == len(kept.embeds) == len(kept.index.unique()) <= before.bound(*size)
    assert count in (None, len(kept.index)) and kept.index.min() >= 0 and kept.index.max() < 72
    assert not plan.pruners or plan.pruners[0].bound(72, 28) <= 72 * 28 + 72 + 28


def available_without(method: str) -> list[str]:
    """`look`, in a fork. Raises AssertionError with what went wrong there."""
    for name in modules():
        importlib.import_module(name)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        try:
            said: dict[str, Any] = {"available": look(method)}
        except BaseException:
            said = {"failed": traceback.format_exc()}
        with os.fdopen(writes, "w") as file:
            json.dump(said, file)
        os._exit(0)  # nothing of the parent's is to be cleaned up here
    os.close(writes)
    with os.fdopen(reads) as file:
        said = json.load(file)
    os.waitpid(child, 0)
    if "failed" in said:
        raise AssertionError(said["failed"])
    return said["available"]
