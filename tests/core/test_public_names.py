"""`import dycoke` gives all public names, and imports torch only where one of them is used."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import dycoke
import dycoke.attach
from dycoke.version import __version__


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module", ["dycoke", "dycoke.cli", "dycoke.eval.runs.experiment", "dycoke.ask.asked", "dycoke.families"]
)
def test_no_torch_before_it_is_needed(module):
    code = f"import {module}, sys; print('torch' in sys.modules, 'dycoke.bench' in sys.modules, dycoke.__version__)"
    code = code.replace(", dycoke.__version__", ", sys.modules['dycoke'].__version__")
    assert run(code) == f"False False {__version__}"


def test_all_names_are_there():
    assert set(dycoke.__all__) <= set(dir(dycoke))
    for name in dycoke.__all__:
        assert getattr(dycoke, name) is not None
    names: dict[str, object] = {}
    exec("from dycoke import *", names)
    assert set(dycoke.__all__) <= set(names)
    with pytest.raises(AttributeError, match="module 'dycoke' has no attribute 'nope'"):
        _ = dycoke.nope


def test_attach_is_the_function():
    assert dycoke.attach is sys.modules["dycoke.attach"].attach


def test_names_and_what_they_make_can_be_pickled():
    for value in (dycoke.attach, dycoke.Run, dycoke.build, dycoke.build("dycoke", k=0.5), dycoke.Plan()):
        assert pickle.loads(pickle.dumps(value)) == value


LATE = """
import sys
from dataclasses import dataclass
import dycoke
from dycoke.registry import register

try:  # before our methods have been imported
    @register("full", source="x", retention="1", official="none")
    @dataclass(frozen=True)
    class Mine:
        "Mine."
        def plan(self): ...
except ValueError as error:
    print(error)
print(dycoke.build("full"), dycoke.families.__name__)  # a module that nobody has imported
import dycoke.attach
print(dycoke.attach is sys.modules["dycoke.attach"].attach)
from dycoke import attach
print(attach is dycoke.attach, "attach" in vars(dycoke))
"""


def test_in_a_process_that_has_imported_nothing_yet():
    assert run(LATE).splitlines() == [
        "method 'full' is registered already, by Full",
        "Full() dycoke.families",
        "True",
        "True True",
    ]
