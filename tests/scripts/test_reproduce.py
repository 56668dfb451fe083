"""The scripts that reproduce tables, with a `dycoke` that only notes how and where it was called."""

from __future__ import annotations

import pytest

from tests.scripts.test_scripts import FAKE_PYTHON, ROOT, Tree

CONFIGS = {path.stem for path in (ROOT / "eval_configs").glob("*.yaml")} - {"smoke"}
NANO = {name for name in CONFIGS if name.startswith("nano_")}  # which one script makes
EXPERIMENTS = sorted(CONFIGS - NANO)

FAKE_DYCOKE = """if [[ $1 == -m && $2 == dycoke.eval.report.agreement ]]; then exit "${AGREEMENT_STATUS:-0}"; fi
if [[ $1 == -m && $2 == dycoke.eval.report.duration ]]; then exit "${DURATION_STATUS:-0}"; fi
if [[ $(basename "$0") == dycoke ]]; then
    echo "in $PWD" >>"$CALLS"
    echo "with ${OMP_NUM_THREADS:-all} threads" >>"$CALLS"
    echo "until the end of ${DYCOKE_PARENT:-nobody}, started by $PPID" >>"$CALLS"
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
    """The calls of `dycoke` and its modules, and the folders those of `dycoke` were made in."""
    return [call for call in tree.calls if call.startswith(("dycoke ", "in ", "python -m dycoke."))]


def test_each_experiment_of_the_paper_has_a_script():
    scripts = (ROOT / "scripts").glob("reproduce_*.sh")
    assert sorted(path.stem.removeprefix("reproduce_") for path in scripts) == sorted([*EXPERIMENTS, "nano"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_swept_and_reported(tree, name):
    done = tree.run(f"scripts/reproduce_{name}.sh")
    assert done.returncode == 0, done.stderr
    sweep, report = f"dycoke sweep eval_configs/{name}.yaml", f"dycoke report {name}"
    assert reproduced(tree) == [sweep, f"in {tree.root}", report, f"in {tree.root}"]


def test_what_a_script_starts_ends_with_it(tree):
    tree.run("scripts/reproduce_table1.sh")
    said = [call.split() for call in tree.calls if call.startswith("until")]
    assert len(said) == 2 and all(words[4] == f"{words[-1]}," for words in said)


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        (["--processes", "8"], ""),
        (["--processes", "8", "--results", "/a b"], " --results /a b"),
        (["--results=there", "--processes", "8"], " --results there"),
        (["--results", "first", "--results=last"], " --results last"),
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
@pytest.mark.parametrize("script", ["reproduce_table4.sh", "reproduce_nano.sh [--all]"])
def test_help_of_a_reproduction_runs_nothing(tree, word, script):
    done = tree.run(f"scripts/{script.split()[0]}", "--processes", "1", word)
    assert done.returncode == 0 and f"bash scripts/{script} [arguments of `dycoke sweep`]" in done.stdout
    assert "#" not in done.stdout and "set -" not in done.stdout and not tree.calls


def nano(name: str, before: str, results: str = "remade", given: str = "") -> list[str]:
    """What is called to make an experiment again and to compare it."""
    return [
        f"dycoke sweep eval_configs/{name}.yaml --results remade --processes 2{given}",
        f"dycoke report {name} --results {results}",
        f"python -m dycoke.eval.report.agreement {results}/{name} results/{before}",
    ]


def called(tree: Tree) -> list[str]:
    return [call for call in reproduced(tree) if not call.startswith("in ")]


TABLES = ("nano_table1", "nano_table5", "nano_fig5")
ALL = [call for name in TABLES for call in nano(name, name)]


def test_main_rows_of_nano_are_made_and_compared(tree):
    done = tree.run("scripts/reproduce_nano.sh")
    assert done.returncode == 0, done.stderr
    assert called(tree) == nano("nano_main", "nano_table1")
    assert f"in {tree.root}" in tree.calls and "with 1 threads" in tree.calls


def test_all_tables_of_nano_are_made_and_before_that_their_time_is_told(tree):
    done = tree.run("scripts/reproduce_nano.sh", "--all")
    assert done.returncode == 0, done.stderr
    before = " ".join(f"results/{name}" for name in TABLES)
    assert called(tree) == [f"python -m dycoke.eval.report.duration --processes 2 --again remade {before}", *ALL]
    assert {*TABLES, "nano_main"} == NANO


def test_arguments_of_nano_come_last_and_count_everywhere(tree):
    tree.run("scripts/reproduce_nano.sh", "--processes=8", "--all", "--results", "else")
    first, *others = called(tree)
    assert first.startswith("python -m dycoke.eval.report.duration --processes 8 --again else results/nano_table1 ")
    given = " --processes=8 --results else"
    assert others == [call for name in TABLES for call in nano(name, name, "else", given)]


def test_threads_that_are_asked_for_are_kept(tree):
    tree.run("scripts/reproduce_nano.sh", OMP_NUM_THREADS="3")
    assert "with 3 threads" in tree.calls


@pytest.mark.parametrize("status", ["1", "2"])
def test_nano_fails_where_rows_differ_and_makes_the_other_tables_anyway(tree, status):
    done = tree.run("scripts/reproduce_nano.sh", "--all", AGREEMENT_STATUS=status)
    assert done.returncode == int(status)
    assert called(tree)[1:] == ALL


def test_nano_ends_with_a_sweep_that_fails_or_results_that_are_not_there(tree):
    done = tree.run("scripts/reproduce_nano.sh", SWEEP_STATUS="2")
    assert done.returncode == 2 and called(tree) == nano("nano_main", "nano_table1")[:1]
    tree.forget()
    done = tree.run("scripts/reproduce_nano.sh", "--all", DURATION_STATUS="2")
    assert done.returncode == 2 and len(called(tree)) == 1
