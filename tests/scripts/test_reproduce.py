"""The scripts that reproduce tables, with a `dycoke` that only notes how and where it was called."""

from __future__ import annotations

import pytest

from tests.scripts.test_scripts import FAKE_PYTHON, ROOT, Tree

CONFIGS = {path.stem for path in (ROOT / "eval_configs").glob("*.yaml")} - {"smoke"}
NANO = {name for name in CONFIGS if name.startswith("nano_")}  # which one script makes
EXPERIMENTS = sorted(CONFIGS - NANO)

FAKE_DYCOKE = """if [[ $(basename "$0") == dycoke ]]; then
    echo "in $PWD" >>"$CALLS"
    if [[ $1 == sweep ]]; then exit "${SWEEP_STATUS:-0}"; fi
fi
exit 0
"""


@pytest.fixture
def tree(tmp_path) -> Tree:
    tree = Tree(tmp_path)
    tree.set_python(FAKE_PYTHON.removesuffix("exit 0\n") + FAKE_DYCOKE)
    return tree


def reproduced(tree: Tree) -> list[str]:
    """The calls of `dycoke` and the folders they were made in."""
    return [call for call in tree.calls if call.startswith(("dycoke ", "in "))]


def test_each_experiment_of_the_paper_has_a_script():
    scripts = (ROOT / "scripts").glob("reproduce_*.sh")
    assert sorted(path.stem.removeprefix("reproduce_") for path in scripts) == EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_swept_and_reported(tree, name):
    done = tree.run(f"scripts/reproduce_{name}.sh")
    assert done.returncode == 0, done.stderr
    sweep, report = f"dycoke sweep eval_configs/{name}.yaml", f"dycoke report {name}"
    assert reproduced(tree) == [sweep, f"in {tree.root}", report, f"in {tree.root}"]


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        (["--processes", "8"], ""),
        (["--processes", "8", "--results", "/a b"], " --results /a b"),
        (["--results=there", "--processes", "8"], " --results=there"),
        (["--results", "first", "--results=last"], " --results=last"),
    ],
)
def test_arguments_of_a_sweep_and_the_report_looks_where_it_wrote(tree, given, reported):
    tree.run("scripts/reproduce_table4.sh", *given)
    assert reproduced(tree)[::2] == [
        f"dycoke sweep eval_configs/table4.yaml {' '.join(given)}",
        f"dycoke report table4{reported}",
    ]


def test_a_sweep_that_fails_is_not_reported(tree):
    done = tree.run("scripts/reproduce_table4.sh", SWEEP_STATUS="2")
    assert done.returncode == 2
    assert reproduced(tree)[::2] == ["dycoke sweep eval_configs/table4.yaml"]


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_of_a_reproduction_runs_nothing(tree, word):
    done = tree.run("scripts/reproduce_table4.sh", word)
    assert done.returncode == 0 and "bash scripts/reproduce_table4.sh [arguments of `dycoke sweep`]" in done.stdout
    assert not done.stdout.startswith("#") and not tree.calls
