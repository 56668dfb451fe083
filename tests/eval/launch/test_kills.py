"""A sweep that is killed again and again, at moments of chance: no process lives on, and its tables are the same.

A few kills with every run of the tests; DYCOKE_KILLS is how many, DYCOKE_KILLS_SEED what they are drawn from.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.eval.launch.sweeping import answers, dycoke, metrics, start

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kills")]
pytest.importorskip("lmms_eval")

KILLS = int(os.environ.get("DYCOKE_KILLS", "2"))
SEED = int(os.environ.get("DYCOKE_KILLS_SEED", "0")) or random.randrange(1, 10**6)
MARK = "DYCOKE_TEST_MARK"  # in the environment of a sweep and of all it starts
EARLY = 6.0  # seconds, in which half of the kills come
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGTERM: (143, -signal.SIGTERM), signal.SIGINT: (130, -signal.SIGINT)}  # before `main`, by the signal
GRACE = 5.0  # seconds that what is left behind has to end, and on a machine of its own a sweep that is to end by itself
TEXT = """
model: {id: llava_onevision, pretrained: nano, args: {conv_template: qwen_1_5, model_name: llava_qwen, dtype: float32}}
video: {frames: 8}
limit: 2
launcher: {cpu: true}
tasks: [nano_samples_long]
methods: [full, {name: dycoke, k: 0.7, l: 5, p: 0.7}]
"""


def processes_of(mark: str) -> dict[int, str]:
    """Processes that live and carry a mark in their environment, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has ended, or belongs to somebody else
    return found


def crowded() -> float:
    """How much longer a process takes that computes, because others want the machine as well."""
    return max(1.0, os.getloadavg()[0] / os.cpu_count())


@dataclass
class Kills:
    """One folder after the other is swept, with a kill in each attempt, until its runs are complete."""

    folder: Path
    draw: random.Random
    length: float  # seconds of a sweep that nobody disturbs
    told: list[str] = field(default_factory=list)

    def attempt(self, number: int) -> int | None:
        """Sweep, and kill it or its worker at some moment; the exit code of a sweep that was over before, else None."""
        mark = f"{os.getpid()}.{number}"
        sign, alone = self.draw.choice(SIGNALS), self.draw.choice(("sweep", "worker"))
        moment = self.draw.uniform(0, EARLY if number % 2 else max(self.length, EARLY))
        process = start("sweep", "small.yaml", cwd=self.folder, **{MARK: mark})
        try:
            process.wait(moment)
            return process.returncode
        except subprocess.TimeoutExpired:
            pass
        workers = [
            each for each, line in processes_of(mark).items() if each != process.pid and "parent_death.py" in line
        ]
        victim = workers[0] if alone == "worker" and workers else process.pid
        killed = time.monotonic()
        os.kill(victim, sign)
        orphans = 0.0
        while left := processes_of(mark):
            took = time.monotonic() - killed
            orphans = took if set(left) - {process.pid} else orphans
            told = f"{self.say(number, moment, sign, victim, process)}: {left}"
            assert orphans < GRACE and took < GRACE * crowded(), told
            time.sleep(0.05)
            process.poll()
        took = time.monotonic() - killed
        error = process.communicate()[1]
        ended = f"the last of the others after {orphans:.2f} s, all after {took:.2f} s"
        self.told.append(f"{self.say(number, moment, sign, victim, process)}: {ended}")
        print(self.told[-1], flush=True)
        # Nothing is caught yet while Python itself starts, which may then say that it could not.
        if victim == process.pid and sign in CODES and not error.startswith("Fatal Python error"):
            done = process.returncode == 0 and "all 2 runs are complete" in error  # the last moment of a sweep
            assert done or process.returncode in CODES[sign], (self.told[-1], error)
            assert "the same command" in error or process.returncode < 0, (self.told[-1], error)
        return None

    def say(self, number: int, moment: float, sign: signal.Signals, victim: int, process: subprocess.Popen) -> str:
        whom = "the sweep" if victim == process.pid else "its worker"
        return f"kill {number} (seed {SEED}), {sign.name} to {whom} at {moment:.2f} s"


def tables(folder: Path) -> dict[str, bytes]:
    """What the report writes of scores and tokens, byte by byte; the rest is times."""
    done = dycoke("report", "small", cwd=folder)
    assert done.returncode == 0, done.stderr
    return {file.name: file.read_bytes() for file in sorted((folder / "results/small/tables").glob("main.*"))}


def made(folder: Path) -> Path:
    folder.mkdir()
    (folder / "small.yaml").write_text(TEXT)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, float]:
    folder = made(tmp_path_factory.mktemp("kills") / "undisturbed")
    began = time.monotonic()
    done = dycoke("sweep", "small.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, time.monotonic() - began


def test_no_process_outlives_a_kill_and_the_tables_are_the_same(undisturbed, tmp_path):
    whole, length = undisturbed
    expected, draw = tables(whole), random.Random(SEED)
    kills = Kills(made(tmp_path / "0"), draw, length)
    folders = 1
    for number in range(KILLS):
        while (code := kills.attempt(number)) is not None:
            assert code == 0
            same(kills.folder, whole, expected)
            kills.folder = made(tmp_path / str(folders))
            folders += 1
    done = dycoke("sweep", "small.yaml", cwd=kills.folder)
    assert done.returncode == 0, done.stderr
    same(kills.folder, whole, expected)
    print(f"{len(kills.told)} kills in sweeps of {folders} folders, whose tables are equal")


def same(folder: Path, whole: Path, expected: dict[str, bytes]) -> None:
    """A folder has the tables and answers of one that was not disturbed, and nothing that a kill left."""
    home, other = folder / "results" / "small", whole / "results" / "small"
    assert len(metrics(home)) == 2 and answers(home) == answers(other)
    assert tables(folder) == expected
    assert not list(home.glob(".jobs*")) and not list(home.glob("**/*.partial"))
