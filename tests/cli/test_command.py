"""The command itself: its help, what it refuses before anything heavy is imported, and how it may be started."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dycoke.eval.runs.shipped import CONFIGS, experiment_file
from dycoke.nano import SAMPLES_PATH
from dycoke.version import __version__

COMMANDS = ("ask", "methods", "sweep", "report", "bench")
BENCHES = ("compress", "decode", "kernels", "engine", "plot")


def started(*arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess, float]:
    """`python -m dycoke ARGUMENTS` as a process of its own, and the CPU seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "dycoke", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(("group", "commands"), [((), COMMANDS), (("bench",), BENCHES)])
def test_a_group_alone_prints_its_help(dycoke, group, commands):
    done = dycoke(*group)
    assert (done.code, done.err) == (0, "")
    assert done.out == dycoke(*group, "--help").out == dycoke(*group, "-h").out
    told = [line.split()[0] for line in done.out.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert all(command in told for command in commands)


@pytest.mark.parametrize("command", [*((name,) for name in COMMANDS), *(("bench", name) for name in BENCHES)])
def test_every_command_takes_h(dycoke, command):
    done = dycoke(*command, "-h")
    assert (done.code, done.err) == (0, "") and done.out.startswith(f"Usage: dycoke {' '.join(command)} ")


@pytest.mark.parametrize("group", [(), ("bench",)])
@pytest.mark.parametrize("columns", [60, 80, 160])
def test_help_is_as_wide_as_the_terminal_and_whole(dycoke, monkeypatch, group, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = dycoke(*group, "--help").out.splitlines()
    assert columns * 0.7 < max(map(len, lines)) <= columns
    assert not any(line.endswith("...") for line in lines[1:])  # the first ends in [ARGS]...


def test_unknown_commands_are_guessed(dycoke):
    assert "Did you mean 'ask'?" in dycoke("aks").complaint
    assert "Did you mean 'bench'?" in dycoke("bnch").complaint
    assert "Did you mean 'compress'?" in dycoke("bench", "compres").complaint


@pytest.mark.parametrize(("arguments", "seconds"), [(["--version"], 1), (["--help"], 1), ([], 1), (["bench"], 1)])
def test_answers_at_once(arguments, seconds):
    done, took = started(*arguments)
    assert (done.returncode, done.stderr) == (0, "") and took < seconds
    assert done.stdout == f"dycoke {__version__}\n" or done.stdout.startswith("Usage: dycoke ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["ask", "nope.mp4", "?"], "nope.mp4: no such file"),
        (["ask", "https://x.org/a.mp4", "?"], "expected the path of a video file"),
        (["ask", "VIDEO", "?", "--model", "nope"], "nope is not a local folder"),
        (["ask", "VIDEO", "?", "--model", "VIDEO"], "is a file; expected a model folder"),
        (["ask", "VIDEO", "?", "--plan", "nope.yaml"], "nope.yaml: No such file"),
        (["ask", "VIDEO", "?", "--option", "k=["], "is not a value in YAML"),
        (["ask", "VIDEO", "?", "--frames", "many"], "'--frames'"),
        (["sweep", "nope.yaml"], "nope.yaml: No such file"),
        (["sweep", "nope"], "no such file, and no experiment that is shipped: figure5"),
        (["sweep", "VIDEO"], "digits.mp4: "),
        (["ask", "VIDEO", "?", "--method", "nope"], "unknown method 'nope'; available: "),
        (["ask", "VIDEO", "?", "--k", "7"], "k=7.0: expected a number in [0, 1]"),
        (["ask", "VIDEO", "?", "--compare", "full,fastv", "--option", "kep=.1"], "kep"),
        (["ask", "VIDEO", "?", "--plan", "PLAN"], "before: dycoke: unknown option 'kep'"),
        (["sweep", "EXPERIMENT"], "k=7: expected a number in [0, 1]"),
    ],
)
def test_what_is_wrong_is_refused_at_once(tmp_path, arguments, complaint):
    plan, experiment = tmp_path / "plan.yaml", tmp_path / "experiment.yaml"
    plan.write_text("before: {name: dycoke, kep: 0.1}")
    experiment.write_text((CONFIGS / "smoke.yaml").read_text().replace("k: 0.7", "k: 7"))
    files = {"VIDEO": str(SAMPLES_PATH / "digits.mp4"), "PLAN": str(plan), "EXPERIMENT": str(experiment)}
    done, took = started(*[files.get(each, each) for each in arguments])
    assert (done.returncode, done.stdout) == (2, "") and took < 2
    assert len(done.stderr.splitlines()) == 1 and complaint in done.stderr


def test_the_methods_are_listed_at_once():
    done, took = started("methods")
    assert (done.returncode, done.stderr) == (0, "") and took < 1.5 and "dycoke_adaptive" in done.stdout


def test_shells_complete_commands():
    typed = {"COMP_WORDS": "dycoke sw", "COMP_CWORD": "1", "_DYCOKE_COMPLETE": "complete_bash"}
    code = "import sys; from dycoke.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | typed)
    assert done.stdout.split() == ["sweep"]


def test_shipped_experiments_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert experiment_file("smoke") == CONFIGS / "smoke.yaml" and (CONFIGS / "smoke.yaml").is_file()
    assert experiment_file("smoke.yaml") == Path("smoke.yaml")
    assert experiment_file("a/smoke") == Path("a/smoke")
    Path("smoke").touch()
    assert experiment_file("smoke") == Path("smoke")
