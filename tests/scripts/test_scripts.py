"""The shell scripts, run in a copy of the tree with a Python that only notes how it was called."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dycoke.nano.samples import read_samples
from tests.cases import folded

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]

TOOLS = (
    "basename",
    "bash",
    "cat",
    "cksum",
    "cp",
    "cut",
    "dirname",
    "env",
    "grep",
    "mkdir",
    "mktemp",
    "rm",
    "sed",
    "sleep",
    "tail",
)

# Stands for python3: makes an "environment" whose programs append their arguments to calls.log.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$CALLS"
if [[ $1 == -c ]]; then exit "${VERSION_STATUS:-0}"; fi
if [[ $1 == -m && $2 == venv ]]; then
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    if [[ ${VENV_STATUS:-0} != 0 ]]; then exit "$VENV_STATUS"; fi
    for program in pip ruff lint-imports mypy dycoke; do cp "$0" "$3/bin/$program"; done
fi
if [[ $1 == -m && $2 == "${SLEEPS:-}" ]]; then
    sleep 60 &
    echo "$$ $!" >"$CALLS.pids"
    wait
fi
if [[ $1 == -m && $2 == pip ]]; then exit "${PIP_STATUS:-0}"; fi
if [[ $1 == -m && $2 == pytest ]]; then
    echo "3 passed in 0.01s"
    exit "${PYTEST_STATUS:-0}"
fi
if [[ $(basename "$0") == ruff ]]; then exit "${RUFF_STATUS:-0}"; fi
if [[ $(basename "$0") == lint-imports ]]; then exit "${ROOMS_STATUS:-0}"; fi
if [[ $(basename "$0") == mypy ]]; then exit "${TYPES_STATUS:-0}"; fi
exit 0
"""


class Tree:
    """A copy of what the scripts read, a PATH with nothing but a fake Python and coreutils, and the calls made."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree"
        self.calls_file = folder / "calls.log"
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        for name in ("scripts", ".ci"):
            shutil.copytree(ROOT / name, self.root / name)
        (self.root / "dycoke").mkdir()
        shutil.copy(ROOT / "setup.py", self.root)
        shutil.copy(ROOT / "dycoke" / "version.py", self.root / "dycoke")
        self.set_python(FAKE_PYTHON)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))

    def set_python(self, text: str) -> None:
        (self.bin / "python3").write_text(text)
        (self.bin / "python3").chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(**self._how(script, arguments, environment), capture_output=True)

    def start(self, script: str, **environment: str) -> subprocess.Popen:
        """A script that goes on, with the signals that it would have on a terminal."""
        how = self._how(script, (), environment)
        return subprocess.Popen(
            **how, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        )

    def _how(self, script: str, arguments: tuple[str, ...], environment: dict[str, str]) -> dict[str, Any]:
        known = {"PATH": str(self.bin), "CALLS": str(self.calls_file), "TMPDIR": str(self.root.parent)}
        command = [str(self.bin / "bash"), str(self.root / script), *arguments]
        return {"args": command, "env": known | environment, "text": True, "cwd": "/"}

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    def forget(self) -> None:
        self.calls_file.unlink()


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path)


@folded("script", SCRIPTS)
def test_syntax(script):
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def installs(calls: list[str]) -> list[str]:
    return [call for call in calls if " -m pip install" in f" {call}"]


def test_makes_the_environment_once(tree):
    assert tree.run("scripts/test.sh").returncode == 0
    assert any(call.endswith(f"-m venv {tree.root}/.venv") for call in tree.calls)
    assert len(installs(tree.calls)) == 1 and f"--editable {tree.root}[dev]" in installs(tree.calls)[0]
    tree.forget()
    assert tree.run("scripts/test.sh").returncode == 0
    assert not any("-m venv" in call for call in tree.calls) and not installs(tree.calls)


def test_installs_again_when_setup_changes(tree):
    tree.run("scripts/test.sh")
    tree.forget()
    with (tree.root / "setup.py").open("a") as file:
        file.write("# changed\n")
    tree.run("scripts/test.sh")
    assert len(installs(tree.calls)) == 1 and not any("-m venv" in call for call in tree.calls)


def test_environment_elsewhere(tree, tmp_path):
    assert tree.run("scripts/test.sh", DYCOKE_VENV=str(tmp_path / "else where")).returncode == 0
    assert (tmp_path / "else where" / "bin" / "python").exists()
    assert not (tree.root / ".venv").exists()


def test_failed_install_is_shown_and_tried_again(tree):
    done = tree.run("scripts/test.sh", PIP_STATUS="1")
    assert done.returncode == 1 and "installing packages: failed" in done.stderr
    assert not any("-m pytest" in call for call in tree.calls)
    tree.forget()
    assert tree.run("scripts/test.sh").returncode == 0
    assert len(installs(tree.calls)) == 1


def test_half_made_environment_is_made_again(tree):
    done = tree.run("scripts/test.sh", VENV_STATUS="1")
    assert done.returncode == 1 and "python3-venv" in done.stderr.splitlines()[-1]
    assert (tree.root / ".venv" / "bin" / "python").exists()
    assert tree.run("scripts/test.sh").returncode == 0


def lives(pid: int) -> bool:
    """Whether a process is there, and no zombie that its parent has not looked after yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def within(seconds: float, found: Callable[[], Any]) -> Any:
    end = time.monotonic() + seconds
    while not found() and time.monotonic() < end:
        time.sleep(0.05)
    return found()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up as Linux shows them")
@pytest.mark.parametrize("script", ["scripts/quickstart.sh", "scripts/test.sh"])
@pytest.mark.parametrize("sleeps", ["venv", "pip"])
@pytest.mark.parametrize("end", ["HUP", "INT", "TERM", "reader"])
def test_what_is_being_installed_ends_with_the_script(tree, script, sleeps, end):
    """With all that it has started; where the reader leaves, at the next line."""
    if (sleeps, end) == ("venv", "reader"):
        pytest.skip("no line is written while the environment is made")
    process = tree.start(script, SLEEPS=sleeps)
    noted = Path(f"{tree.calls_file}.pids")
    assert within(20, lambda: noted.exists() and noted.read_text().strip())
    pids = [int(pid) for pid in noted.read_text().split()]
    assert all(map(lives, pids))
    if end == "reader":
        process.stderr.close()
    else:
        process.send_signal(getattr(signal, f"SIG{end}"))
    assert process.wait(20) == {"HUP": 129, "INT": 130, "TERM": 143, "reader": 141}[end]
    assert within(5, lambda: not any(map(lives, pids)))


@pytest.mark.parametrize("script", [path.name for path in SCRIPTS if path.name in ("quickstart.sh", "test.sh", "run")])
@pytest.mark.parametrize("ask", ["-h", "--help"])
def test_help_is_given_at_once_and_nothing_made(tree, script, ask):
    done = tree.run(".ci/run" if script == "run" else f"scripts/{script}", ask)
    assert (done.returncode, done.stderr) == (0, "") and "bash scripts/" in done.stdout
    assert not tree.calls and not (tree.root / ".venv").exists()


def test_no_python_is_one_line(tree):
    done = tree.run("scripts/test.sh", VERSION_STATUS="1")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: no Python 3.11 or newer on PATH; install one (and its venv module) and try again"
    ]


def test_style_and_tests(tree):
    done = tree.run("scripts/test.sh")
    assert [call for call in tree.calls if call.startswith("ruff")] == ["ruff check .", "ruff format --check ."]
    assert tree.calls[-1] == "python -m pytest -n 2 --dist loadgroup"
    assert done.stdout.splitlines()[-1] == "3 passed in 0.01s"


def test_arguments(tree):
    tree.run("scripts/test.sh", "--fast", "tests/core", "-k", "two words")
    assert tree.calls[-1] == "python -m pytest -n 2 --dist loadgroup -m not slow tests/core -k two words"


def test_oldest_has_an_environment_and_pins_of_its_own(tree):
    tree.run("scripts/test.sh", "--oldest")
    assert (tree.root / ".venv-oldest").exists() and not (tree.root / ".venv").exists()
    assert installs(tree.calls)[0].endswith(f"--constraint {tree.root}/scripts/oldest.txt")


@pytest.mark.parametrize(
    ("failing", "code"),
    [
        ({"RUFF_STATUS": "1"}, 1),
        ({"ROOMS_STATUS": "1"}, 1),
        ({"TYPES_STATUS": "1"}, 1),
        ({"PYTEST_STATUS": "3"}, 3),
        ({"RUFF_STATUS": "1", "ROOMS_STATUS": "1", "TYPES_STATUS": "1", "PYTEST_STATUS": "3"}, 3),
    ],
)
def test_failures_set_the_exit_code_and_the_tests_run_anyway(tree, failing, code):
    done = tree.run("scripts/test.sh", **failing)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "3 passed in 0.01s"


def test_quickstart_asks_a_sample_question_and_passes_arguments_on(tree):
    done = tree.run("scripts/quickstart.sh", "--k", "0.5")
    assert done.returncode == 0, done.stderr
    call = tree.calls[-1].removeprefix(f"dycoke ask {tree.root}/dycoke/nano/samples/")
    video, question = re.fullmatch(r"(\S+) (.*) --compare full,dycoke --l 5 --k 0.5", call).groups()
    asked = {sample.video.name: [text for _, text, _ in sample.questions] for sample in read_samples()}
    assert question in asked[video]


@pytest.mark.parametrize("status", ["0", "5"])
def test_ci_removes_its_folder_only_and_keeps_the_exit_code(tree, tmp_path, status):
    before = set(tmp_path.iterdir())
    (tree.root / ".venv").mkdir()
    done = tree.run(".ci/run", "--fast", PYTEST_STATUS=status)
    assert done.returncode == int(status)
    assert done.stdout.splitlines()[-1] == "3 passed in 0.01s"
    made = next(call for call in tree.calls if "-m venv" in call).split()[-1]
    assert made.startswith(str(tmp_path)) and not Path(made).parent.exists()
    assert set(tmp_path.iterdir()) - before == {tree.calls_file}
    assert (tree.root / ".venv").exists()
    assert tree.calls[-1] == "python -m pytest -n 2 --dist loadgroup -m not slow"


def test_a_real_python_is_found(tmp_path):
    """A name on PATH that starts nothing, or an old Python, is passed over."""
    for name, text in (
        ("python3.12", "#!/bin/sh\nexit 127\n"),
        ("python3.11", f'#!/bin/sh\nexec {sys.executable} "$@"\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f"source {ROOT}/scripts/common.sh; find_python"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(tmp_path / "python3.11"), done.stderr


def test_scripts_let_python_keep_what_it_has_compiled():
    text = f"source {ROOT}/scripts/common.sh; echo ${{PYTHONDONTWRITEBYTECODE-unset}}"
    done = subprocess.run(
        ["bash", "-c", text], capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert done.stdout == "unset\n"
