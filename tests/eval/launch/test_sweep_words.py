"""What a sweep says of how far it is, and what it leaves; its processes are stand-ins that load nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dycoke import cli
from dycoke.eval.launch import sweep
from dycoke.eval.launch.processes import held

FULL, HALF = "nano_f8_full__a_task", "nano_f8_dycoke-k0.5__a_task"
TEXT = """
model: {id: llava_onevision, pretrained: nano}
video: {frames: 8}
tasks: [a_task]
methods: [full, {name: dycoke, k: 0.5}]
score: false
"""


@pytest.fixture
def swept(tmp_path, monkeypatch, capsys):
    """Sweep with stand-ins of a mode; the exit code and the lines that are said."""
    (tmp_path / "small.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)

    def run(mode: str = "make", *arguments: str) -> tuple[int, list[str]]:
        stand_in = [sys.executable, str(Path(__file__).with_name("stand_in.py")), mode]
        monkeypatch.setattr(sweep, "command", lambda launcher, node, module, given: ([*stand_in, *given], {}))
        code = cli.main(["sweep", "small.yaml", *arguments])
        return code, [line for line in capsys.readouterr().err.splitlines() if line]

    return run


def test_a_line_when_a_run_begins_and_when_it_is_complete_and_where_all_is_at_the_end(swept):
    code, said = swept()
    assert code == 0
    assert said[-2:] == [
        "small: 2 of 2 runs made, all 2 runs are complete in results/small",
        "tables and plots: dycoke report small",
    ]
    # a run that is over within half a second is not seen at its beginning
    assert [line for line in said if "answering" not in line][:2] == [
        f"{FULL}: complete, 1 of 2 runs are",
        f"{HALF}: complete, 2 of 2 runs are",
    ]
    assert swept("silent", "--results", "results") == (
        0,
        ["small: all 2 runs are complete in results/small", "tables and plots: dycoke report small"],
    )


def test_elsewhere_the_report_is_told_where(swept):
    assert swept("make", "--results", "an other")[1][-1] == "tables and plots: dycoke report small --results 'an other'"


@pytest.mark.parametrize(
    ("sign", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_interrupted_it_says_how_far_it_is_and_ends_what_it_started(swept, tmp_path, sign, code, word):
    def interrupt() -> None:
        while not (tmp_path / "results" / "small" / FULL / "metrics.json").exists():
            time.sleep(0.05)
        time.sleep(1)
        os.kill(os.getpid(), sign)

    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    status, said = swept("hang")
    assert status == code and time.monotonic() - began < 10
    assert said == [
        f"{FULL}: complete, 1 of 2 runs are",
        f"dycoke: {word}; 1 of 2 runs complete; the same command goes on",
    ]
    assert not working(tmp_path)
    assert not list((tmp_path / "results" / "small").glob(".jobs*"))
    assert swept()[1][-2].startswith("small: 1 of 2 runs made, ")


def working(folder: Path) -> list[str]:
    """Command lines of processes that name a folder."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.splitlines()
    return [line for line in listed if f"{folder}/" in line and "stand_in.py" in line]


@pytest.mark.parametrize(
    ("mode", "reason"), [("say", "out of luck"), ("silent", "a process ended without a word (exit code 1)")]
)
def test_what_went_wrong_is_one_line_with_the_log(swept, mode, reason):
    assert swept(mode) == (2, [f"dycoke: {reason} (log: results/small/logs/nano.log)"])


@pytest.mark.parametrize(
    ("mode", "said"), [("say", "out of luck"), ("silent", "a process ended without a word (exit code 1)")]
)
def test_a_full_disk_is_named_whatever_a_process_could_say(swept, monkeypatch, mode, said):
    def full(path: Path, text: str) -> None:
        if path.name.endswith(".room"):
            raise OSError(28, "No space left on device", str(path))
        path.write_text(text)

    monkeypatch.setattr(sweep, "write_text", full)
    full = "[Errno 28] No space left on device: 'results/small/logs/nano.log.room'"
    assert swept(mode) == (2, [f"dycoke: {said}; {full} (log: results/small/logs/nano.log)"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": "x"}', "\0" * 4096])
def test_metrics_that_are_not_whole_are_made_again_with_a_word(swept, tmp_path, text):
    swept()
    file = tmp_path / "results" / "small" / FULL / "metrics.json"
    file.write_text(text)
    code, said = swept()
    assert code == 0
    assert said[0] == f"results/small/{FULL}/metrics.json: incomplete or damaged; the run is made again"
    assert said[-2] == "small: 1 of 2 runs made, all 2 runs are complete in results/small"
    assert json.loads(file.read_text())["run"] == FULL


def test_what_a_sweep_that_was_killed_left_is_cleared_away(swept, tmp_path):
    for complete in (False, True):
        stale = tmp_path / "results" / "small" / ".jobs" / "abc"
        stale.mkdir(parents=True)
        (stale / "failed.0.json").write_text('{"message": "of old"}')
        assert swept()[0] == 0, complete
        assert sorted(path.name for path in (tmp_path / "results" / "small").iterdir()) == sorted(
            [".lock", "experiment.yaml", "logs", FULL, HALF]
        )


def test_a_folder_that_others_hold_is_waited_for_and_then_refused(swept, tmp_path, monkeypatch):
    """The processes of a sweep hold it too: they have the lock's descriptor."""
    monkeypatch.setattr("dycoke.eval.launch.processes._PATIENCE", 1)
    home = tmp_path / "results" / "small"
    with held(home) as lock:
        orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[lock])
    code, said = swept()
    assert (code, said) == (2, ["dycoke: results/small: another sweep is at work there; wait for it, or stop it"])
    threading.Timer(0.5, orphan.kill).start()
    assert swept()[0] == 0
    orphan.wait()
