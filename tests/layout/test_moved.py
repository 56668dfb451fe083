"""Old names of modules give the modules of today, with one warning that says where they are."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import warnings
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("av")  # some of them read videos

import dycoke
from dycoke import moved
from dycoke.moved import MOVED

ROOT = Path(dycoke.__file__).resolve().parents[1]
# What dycoke.budget had before methods took along what they alone use.
BUDGET = """
    check_ratio kept_per_frame windows_count official_count official_windows kept_visual decimal_power
    SPARSEVLM_LISTS sparsevlm_shares sparsevlm_published stage_of framefusion_ratio from_keep dominant_tokens
    outlier_tokens spacing_step check_count share_floor share_round share_ceil share_out holitom_ratio
    holitom_bound prunevid_clusters prunevid_bound anchor_counts llava_video_counts flashvid_per_frame
"""
# Those that import lmms-eval, which takes seconds.
HEAVY = [
    "manifest",
    "worker",
    "lmms_tasks",
    "answering",
    "llava_model",
    "onevision",
    "vid",
    "hf",
    "evaluate",
    "scoring",
    "samples",
]
PACKAGES = {
    "dycoke.families.llava": "LlavaAdapter",
    "dycoke.eval.report": "write_report",
    "dycoke.bench.compress": "Setting",
    "dycoke.bench.video": "Setting",
    "dycoke.bench.kernels": "timed",
}


def imported(name: str) -> tuple[object, list[str]]:
    """What an old name gives where nobody has asked for it before, and what is said of it."""
    sys.modules.pop(name, None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = importlib.import_module(name)
        assert importlib.import_module(name) is found
    return found, [str(each.message) for each in said if each.category is DeprecationWarning]


@pytest.mark.parametrize("old", [name for name in MOVED if name.rpartition(".")[2] not in HEAVY])
def test_an_old_name_is_the_module_of_today(old):
    new = importlib.import_module(MOVED[old])  # first, so that nothing it imports is counted
    package = old.rpartition(".")[0]
    if package in MOVED:
        imported(package)  # likewise
    found, said = imported(old)
    assert found is new and found.__name__ == found.__spec__.name == MOVED[old]
    assert said == [f"{old} has moved to {MOVED[old]}; the old name goes with the next release"]


@pytest.mark.slow
@pytest.mark.parametrize("old", [name for name in MOVED if name.rpartition(".")[2] in HEAVY])
def test_an_old_name_of_what_imports_lmms_eval(old):
    pytest.importorskip("lmms_eval")
    test_an_old_name_is_the_module_of_today(old)


@pytest.mark.parametrize("old", MOVED)
def test_no_file_has_an_old_name(old):
    file = ROOT / Path(*old.split("."))
    assert not file.with_suffix(".py").exists() and not (file / "__init__.py").exists()
    assert find_spec(MOVED[old]) is not None


def test_the_old_name_is_there_in_every_way_to_import():
    import dycoke.offline.generate as today

    for line in (
        "from dycoke.engine.offline import generate_many",
        "from dycoke.engine import offline; generate_many = offline.generate_many",
        "import dycoke.engine.offline as offline; generate_many = offline.generate_many",
    ):
        names: dict[str, object] = {}
        exec(line, names)
        assert names["generate_many"] is today.generate_many
    from dycoke.ask.video import read_frames

    assert read_frames is importlib.import_module("dycoke.video.frames").read_frames
    assert dycoke.cache is importlib.import_module("dycoke.kv_cache.request")


@pytest.mark.parametrize("old", [name for name in MOVED if name.startswith("dycoke.adapters.")])
def test_a_moved_package_hands_on_its_modules(old):
    """`from package import module` asks the package, which is another one today, and what is there stays there."""
    import dycoke.families

    name, names = old.rpartition(".")[2], {}
    if name not in ("base", "language_model", "llava"):  # packages and modules of its own
        vars(dycoke.families).pop(name, None)
    imported("dycoke.adapters")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(f"from dycoke.adapters import {name}", names)
        imported(old)
    assert names[name] is importlib.import_module(MOVED[old])
    assert dycoke.families.llava is importlib.import_module("dycoke.families.llava")


def test_the_warning_is_of_the_line_that_imports():
    sys.modules.pop("dycoke.shapes", None)
    with pytest.warns(DeprecationWarning, match=r"dycoke\.shapes has moved to dycoke\.model_shape") as said:
        import dycoke.shapes  # noqa: F401
    assert [each.filename for each in said] == [__file__]


@pytest.mark.parametrize("name", ["dycoke.adapters.chat", "dycoke.adapters.nothing"])
def test_a_moved_package_has_what_it_had_alone(name):
    """Not a second copy of what lies in its folder today."""
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'"):
        importlib.import_module(name)


@pytest.mark.parametrize(("package", "name"), PACKAGES.items())
def test_a_package_hands_on_the_names_of_the_module_before_it(package, name):
    module = {"dycoke.eval.report": "command", "dycoke.families.llava": "adapter"}.get(package, "run")
    today = importlib.import_module(f"{package}.{module}")
    with pytest.warns(DeprecationWarning, match=f"{package}.{name} has moved to {package}.{module}.{name}; the old"):
        assert getattr(importlib.import_module(package), name) is getattr(today, name)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = importlib.import_module(package).nothing


@pytest.mark.parametrize("name", BUDGET.split())
def test_budget_has_what_it_had(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert hasattr(importlib.import_module("dycoke.budget"), name)


def test_functions_of_budget_are_where_their_methods_are():
    from dycoke import budget

    for home, names in moved.BUDGET.items():
        for old, _, new in (name.partition("=") for name in names.split()):
            today = f"{home}.{new or old}"
            with pytest.warns(
                DeprecationWarning, match=rf"dycoke\.budget\.{old} has moved to {re.escape(today)}; the old"
            ):
                assert getattr(budget, old) is getattr(importlib.import_module(home), new or old)
    with pytest.raises(AttributeError, match=r"module 'dycoke\.budget' has no attribute 'nothing'"):
        _ = budget.nothing


def test_as_a_command_and_without_torch():
    """`python -m` runs the file of today, and shows the warning."""
    command = [sys.executable, "-m", "dycoke.eval.agreement", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.startswith("usage: agreement.py"), done.stderr
    assert "dycoke.eval.agreement has moved to dycoke.eval.report.agreement; the old name" in done.stderr
    code = "import dycoke.moved, sys; from dycoke.eval import specs; print(specs.__name__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["dycoke.eval.runs.specs", "False"], done.stderr


@pytest.mark.slow
def test_the_entry_point_of_releases_before():
    """An environment that was installed before names the models where they were."""
    pytest.importorskip("lmms_eval")
    entry = EntryPoint("dycoke", "dycoke.eval.manifest:manifests", "lmms_eval.models")
    assert {each.model_id for each in entry.load()()} == {"llava_onevision", "llava_vid", "dycoke_hf"}


def test_installed_once():
    before = list(sys.meta_path)
    moved.install()
    assert sys.meta_path == before and before.count(moved.Finder) == 1
