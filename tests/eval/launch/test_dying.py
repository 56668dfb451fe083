"""Processes that end with the one that started them, from their first moment on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dycoke.eval.launch import parent_death
from dycoke.eval.launch.command import Node, command
from dycoke.eval.runs.specs import Launcher

FILE = str(Path(parent_death.__file__).resolve())
# Says who it is and works on; what the parent of all this started is to end with it.
WORKS = """
import os, sys, time
print(os.getpid(), sys.argv[1:], os.environ.get("DYCOKE_PARENT") == str(os.getpid()), sys.path[0], flush=True)
time.sleep(60)
"""
PARENT = f"""
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, {FILE!r}, "works", "--of", "mine"],
                         env=os.environ | {{"{parent_death.PARENT}": str(os.getpid())}})
if "stop" in sys.argv:
    os.kill(child.pid, signal.SIGSTOP)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def works(tmp_path, monkeypatch) -> None:
    (tmp_path / "works.py").write_text(WORKS)
    monkeypatch.chdir(tmp_path)


def started(*arguments: str) -> tuple[subprocess.Popen, int]:
    """A process, and the id of the one it has started just now."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, text=True)
    return parent, int(parent.stdout.readline())


def end(parent: subprocess.Popen, sign: signal.Signals) -> None:
    parent.send_signal(sign)
    parent.wait()
    parent.stdout.close()  # not read to its end, which comes when the child ends


def ends(process: int) -> bool:
    """Whether a process that is none of ours is gone within a few seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    return False


@pytest.mark.parametrize("seconds", [0, 0.01, 0.03, 0.1, 0.4])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_ends_with_its_parent_however_young_it_is(seconds, sign):
    parent, child = started()
    time.sleep(seconds)
    end(parent, sign)
    assert ends(child)


def test_one_that_was_stopped_meanwhile_ends_as_soon_as_it_goes_on():
    parent, child = started("stop")
    end(parent, signal.SIGKILL)
    os.kill(child, signal.SIGCONT)
    assert ends(child)


def test_the_module_finds_its_arguments_the_folder_it_was_started_in_and_no_neighbour_of_ours(tmp_path):
    environment = os.environ | {parent_death.PARENT: str(os.getpid())}
    line = [sys.executable, FILE, "works", "--of", "mine"]
    child = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    said = child.stdout.readline()
    child.kill()
    child.communicate()
    assert said == f"{child.pid} ['--of', 'mine'] True {tmp_path}\n"


def ran(environment: dict[str, str], code: str = "") -> subprocess.CompletedProcess:
    line = [sys.executable, "-c", code] if code else [sys.executable, FILE, "works"]
    return subprocess.run(line, env=os.environ | environment, capture_output=True, text=True, timeout=20)


def test_a_parent_that_has_ended_is_noticed_at_once_and_said():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    done = ran({parent_death.PARENT: str(gone.pid)})
    assert done.returncode == -signal.SIGKILL and not done.stdout
    assert done.stderr == f"process {gone.pid}, which started this one, has ended, and so does this one\n"


def test_a_parent_that_is_no_process_is_refused():
    done = ran({parent_death.PARENT: "me"})
    assert done.returncode == 1 and "DYCOKE_PARENT='me': expected a process id" in done.stderr


def test_where_the_kernel_does_not_tell_a_thread_looks():
    """What other systems than Linux do."""
    alone = f"""
import importlib.util, time
spec = importlib.util.spec_from_file_location("parent_death", {FILE!r})
parent_death = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parent_death)
parent_death._told_by_kernel = lambda sign: False
parents = [7, 7, 1]
parent_death.os.getppid = lambda: parents.pop(0) if len(parents) > 1 else parents[0]
parent_death._LOOK_EVERY = 0.05
parent_death.end_with_parent(15)
time.sleep(30)
"""
    assert ran({parent_death.PARENT: "7"}, alone).returncode == -signal.SIGTERM


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_sweep_starts_is_started_in_this_way(processes):
    line, environment = command(Launcher(processes=processes, cpu=True), Node(), "a.module", ["job"])
    assert environment[parent_death.PARENT] == str(os.getpid())
    assert line[:2] == [sys.executable, FILE] and line[-3:] == [FILE, "a.module", "job"]
    assert ("accelerate.commands.launch" in line) == (processes > 1) and "-m" not in line


LAUNCHED = """
import os, subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], env=os.environ | {"DYCOKE_PARENT": str(os.getpid())})
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_the_processes_of_a_launcher_end_with_it_and_it_with_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "works.py").write_text(f"import os\nopen('rank.' + str(os.getpid()), 'w').close()\n{WORKS}")
    line, environment = command(Launcher(processes=2, cpu=True), Node(), "works", [])
    environment = os.environ | environment
    for victim in ("launcher", "sweep"):
        launched = [sys.executable, "-c", LAUNCHED, *line]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        sweep = subprocess.Popen(launched, env=environment, **pipes)
        try:
            launcher, deadline = int(sweep.stdout.readline()), time.monotonic() + 120
            while len(ranks := [int(file.suffix[1:]) for file in tmp_path.glob("rank.*")]) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            os.kill(launcher if victim == "launcher" else sweep.pid, signal.SIGKILL)
            assert all(ends(each) for each in (launcher, *ranks)), victim
        finally:
            end(sweep, signal.SIGKILL)
        for file in tmp_path.glob("rank.*"):
            file.unlink()
