"""A warm process is a process like any other, but for what it has imported already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dycoke.eval.launch import parent_death
from tests import warm
from tests.warm import starting

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("warm"),  # one process of the tests has the server they share
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all start cold"),
]
SAY = """
import json, os, signal, sys
fresh = "transformers" not in sys.modules
import huggingface_hub.constants as hub
print(json.dumps({
    "argv": sys.argv, "environment": dict(os.environ), "folder": os.getcwd(), "pid": os.getpid(), "path": sys.path[:2],
    "parent": os.getppid(), "session": os.getsid(0), "group": os.getpgid(0), "fresh": fresh, "name": __name__,
    "line": open("/proc/self/cmdline").read().split(chr(0)), "hub": hub.HF_HUB_CACHE, "read": sys.stdin.read(),
    "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGHUP)],
    "fds": sorted(os.listdir("/proc/self/fd")),
}), flush=True)
print("said", file=sys.stderr)
"""
SLEEP = "import time; print('up', flush=True); time.sleep(300)"
START = """
import subprocess, sys
process = subprocess.Popen([sys.executable, "-m", *sys.argv[1:]], start_new_session=True)
print(process.pid, flush=True)
sys.exit(process.wait() % 256)
"""
DIE = """
import os, time
from dycoke.eval.launch.parent_death import end_with_parent
end_with_parent()
print(os.getppid(), flush=True)
time.sleep(300)
"""


@pytest.fixture
def modules(tmp_path) -> Path:
    for name, text in {"say": SAY, "sleep": SLEEP, "start": START, "die": DIE}.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def options(folder: Path, **more: str) -> dict[str, Any]:
    home = {"HF_HOME": str(folder / "home"), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment = os.environ | home | {"PYTHONPATH": str(starting.ROOT)} | more
    return {"cwd": folder, "env": environment, "text": True, "stdout": subprocess.PIPE}


def start(folder: Path, *line: str, **more: Any) -> subprocess.Popen:
    return warm.Popen([sys.executable, "-m", *line], **options(folder), **more)


def code(folder: Path, text: str, **more: Any) -> subprocess.CompletedProcess:
    (folder / "given.py").write_text(text)
    return warm.run([sys.executable, "-m", "given"], **options(folder), stderr=subprocess.PIPE, **more)


def gone(pid: int) -> bool:
    """Whether a process ends within 5 s; one that nobody has waited for has ended."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


FILE, MODULE = parent_death.__file__, parent_death.__name__


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (["-m", "m", "a"], ["m", "a"]),
        (["-u", "-m", "m"], ["m"]),
        ([FILE, "m", "a"], [MODULE, "m", "a"]),
        (["-u", FILE, "m", "a"], [MODULE, "m", "a"]),  # as accelerate starts the processes of a sweep
        (["-u", "other.py", "m"], None),
        (["-c", "pass"], None),
        (["-u", "-m"], None),
    ],
)
def test_what_can_be_warm(words, module):
    assert starting.module_of([sys.executable, *words]) == module
    assert starting.module_of(["bash", *words]) is None


@pytest.mark.parametrize("session", [False, True])
def test_it_is_what_a_cold_one_is(modules, session):
    said = {}
    for cold in (False, True):
        given = options(modules, ANYTHING="else") | {"stderr": subprocess.PIPE, "start_new_session": session}
        process = warm.Popen([sys.executable, "-m", "say", "a b", "ü"], cold=cold, stdin=subprocess.PIPE, **given)
        out, err = process.communicate("read me")
        assert (process.returncode, err) == (0, "said\n")
        said[cold] = found = json.loads(out)
        assert found["fresh"] is cold
        assert (found.pop("pid"), found["parent"]) == (process.pid, os.getpid())
        assert (found.pop("session") == found.pop("group") == process.pid) is session
        while found["line"][-1] == "":
            del found["line"][-1]  # room that is left
        del found["fresh"]
    assert len(said[False].pop("fds")) == len(said[True].pop("fds")) + 1  # the way to what it is forked from
    assert said[False] == said[True]
    assert said[True]["hub"] == str(modules / "home" / "hub") and said[True]["environment"]["ANYTHING"] == "else"


@pytest.mark.parametrize(
    ("text", "expected", "said"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit('so it ends')", 1, "so it ends"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ("import os; os.abort()", -signal.SIGABRT, ""),
        ("import atexit, sys; atexit.register(print, 'last', file=sys.stderr)", 0, "last"),
    ],
)
def test_it_ends_as_a_cold_one_does(modules, text, expected, said):
    for cold in (False, True):
        done = code(modules, text, cold=cold)
        assert done.returncode == expected
        assert (done.stderr.splitlines() or [""])[-1] == said


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_is_killed_as_a_cold_one_is_and_nothing_of_it_stays(modules, sign):
    process = start(modules, "sleep")
    assert process.stdout.readline() == "up\n"
    (own,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert Path(f"/proc/{own}/cmdline").read_text().strip("\0") == starting.TITLE
    process.send_signal(sign)
    assert process.communicate()[0] == "" and process.returncode == -sign
    assert gone(int(own))


def test_what_it_starts_is_its_child_and_warm_too(modules):
    process = start(modules, "start", "say")
    started, said = process.communicate()[0].splitlines()
    found = json.loads(said)
    assert (found["pid"], found["parent"], found["fresh"]) == (int(started), process.pid, False)
    assert found["session"] == found["pid"] and found["line"][1:3] == ["-m", "say"]


def test_what_it_starts_dies_with_it_where_it_says_so(modules):
    for name, dies in (("die", True), ("sleep", False)):
        process = start(modules, "start", name)
        child, said = (process.stdout.readline().strip() for _ in range(2))
        assert said == (str(process.pid) if dies else "up")
        process.kill()
        process.wait()
        assert process.returncode == -signal.SIGKILL
        if not dies:
            time.sleep(0.2)
            os.kill(int(child), signal.SIGTERM)
        assert gone(int(child))


def test_one_that_takes_too_long_is_killed(modules):
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        code(modules, SLEEP, timeout=1)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "more", [{"CUDA_VISIBLE_DEVICES": "0"}, {"PYTHONHASHSEED": "1"}, {"HF_DATASETS_CACHE": "there"}]
)
def test_what_imports_have_read_is_read_anew_where_it_differs(modules, more):
    line = [sys.executable, "-m", "say"]
    assert starting.can_be_warm(line, options(modules))
    assert not starting.can_be_warm(line, options(modules, **more))


def test_only_modules_of_this_python_are_warm(modules):
    for line in (["true"], [sys.executable, "say.py"], [sys.executable, "-c", "pass"], [sys.executable, "-m"]):
        assert not starting.can_be_warm(line, options(modules))
    assert not starting.can_be_warm([sys.executable, "-m", "say"], options(modules) | {"pass_fds": (3,)})
    assert warm.run(["sh", "-c", "exit 3"]).returncode == 3
