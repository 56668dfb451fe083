"""scripts/train_nano.sh, with an accelerate that only notes how it was called and leaves a curve."""

from __future__ import annotations

import pytest

from tests.scripts.test_scripts import FAKE_PYTHON, Tree

# Stops where it is told, or at step $CUT.
TRAINS = """if [[ $(basename "$0") == accelerate ]]; then
    while [[ $1 ]]; do
        if [[ $1 == --output ]]; then output=$2; elif [[ $1 == --until ]]; then step=$2; fi
        shift
    done
    mkdir -p "$output/state" "$output/model"
    echo "{\\"step\\": ${CUT:-$step}, \\"k\\": 0.0}" >>"$output/curve.jsonl"
fi
exit 0
"""


@pytest.fixture
def tree(tmp_path) -> Tree:
    tree = Tree(tmp_path)
    text = FAKE_PYTHON.replace(" dycoke; do cp", " dycoke accelerate; do cp")
    tree.set_python(text.removesuffix("exit 0\n") + TRAINS)
    return tree


def launches(tree: Tree) -> list[str]:
    return [call for call in tree.calls if call.startswith("accelerate launch")]


def test_the_second_run_starts_from_the_first(tree):
    done = tree.run("scripts/train_nano.sh", "out")
    assert done.returncode == 0, done.stderr
    first, second = launches(tree)
    assert "--num_processes 2 --multi_gpu -m dycoke.nano.train --output out/first --until 8650 " in first
    assert first.endswith("--steps 12000") and "--resume" not in first
    assert "--output out/second --until 1800 " in second
    assert "--start-from out/first/model --seed 1 --rate 0.0005 --warm-up 100 --dense 0" in second
    curve = (tree.root / "out" / "training_curve.jsonl").read_text()
    assert curve.splitlines() == ['{"step": 8650, "k": 0.0}', '{"step": 1800, "k": 0.0}']
    tree.forget()
    assert tree.run("scripts/train_nano.sh", "out").returncode == 0
    assert launches(tree) == []


def test_a_run_that_was_cut_goes_on(tree):
    cut = tree.run("scripts/train_nano.sh", "out", "1", "--minutes", "9", CUT="4460")
    assert cut.returncode == 1 and "out/first: cut before step 8650; call again to go on" in cut.stderr
    (first,) = launches(tree)
    assert "--num_processes 1 -m " in first and first.endswith("--minutes 9")
    tree.forget()
    state = tree.root / "out" / "first" / "state"
    state.rename(state.with_name("state.before"))  # killed between two renames
    assert tree.run("scripts/train_nano.sh", "out", "1").returncode == 0
    again, second = launches(tree)
    assert "--resume" in again and "--resume" not in second


def test_a_folder_has_to_be_named(tree):
    done = tree.run("scripts/train_nano.sh")
    assert done.returncode == 1 and "name a folder to train in" in done.stderr
    for wrong in ("--minutes", "0", "two"):
        done = tree.run("scripts/train_nano.sh", "out", wrong)
        assert done.returncode == 1 and f"PROCESSES={wrong}: expected an integer of at least 1" in done.stderr
    assert "FOLDER [PROCESSES" in tree.run("scripts/train_nano.sh", "--help").stdout
