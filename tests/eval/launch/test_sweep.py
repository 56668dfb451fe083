"""Sweeps as users run them: the smoke experiment, killed and gone on with, in two processes, and refused."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dycoke.nano import SAMPLES_PATH
from tests.eval.launch.sweeping import SMOKE, answers, dycoke, metrics, start

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("warm")]  # one process has the sweep they share
pytest.importorskip("lmms_eval")


SMALL = {"video": {"frames": 8}, "limit": 4, "methods": ["full", {"name": "dycoke", "k": 0.7, "l": 5, "p": 0.7}]}
ASKED = 16  # samples of two tasks and two methods


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    """A folder whose results/smoke is that of an undisturbed sweep of the shipped file, in a new interpreter."""
    folder = tmp_path_factory.mktemp("smoke")
    done = dycoke("sweep", SMOKE, cwd=folder, cold=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A folder whose results/smoke is that of an undisturbed sweep of few samples, frames and methods."""
    folder = tmp_path_factory.mktemp("small")
    done = dycoke("sweep", changed(folder, **SMALL), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert sum(map(len, answers(folder / "results" / "smoke").values())) == ASKED
    return folder


def changed(folder: Path, name: str = "smoke", **keys) -> Path:
    """The smoke experiment with other values for some keys."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(SMOKE.read_text()) | keys))
    return file


def test_every_run_is_complete_and_says_what_it_is(smoke):
    found = metrics(smoke / "results" / "smoke")
    assert len(found) == 6
    for run, content in found.items():
        config = yaml.safe_load((smoke / "results" / "smoke" / run / "config.yaml").read_text())
        assert config["run"] == content["run"] == run and config["made"] == content["made"]
        assert content["samples"] == {content["task"]: 30 if content["task"].endswith("short") else 6}
        assert content["usage"]["visual_tokens"] == 512
    kept = {run: content["usage"]["visual_kept"] for run, content in found.items() if content["task"].endswith("long")}
    # 32 frames of 16 tokens: one of four frames is left whole, and of the others int(16 * .3) tokens are
    assert sorted(kept.values()) == [8 * 16 + 24 * 4, 512, 512]
    full = found["nano_f32_full__nano_samples_short"]
    assert full["scores"]["nano_samples_short"]["exact_match"] == 1.0
    assert len({content["fingerprint"]["prompts"] for content in found.values()}) == 2
    assert len({content["fingerprint"]["data"] for content in found.values()}) == 2


def test_a_finished_sweep_starts_nothing(smoke):
    before = answers(smoke / "results" / "smoke"), metrics(smoke / "results" / "smoke"), logged(smoke)
    done = dycoke("sweep", SMOKE, cwd=smoke)
    assert done.returncode == 0 and "all 6 runs are complete" in done.stderr
    assert (answers(smoke / "results" / "smoke"), metrics(smoke / "results" / "smoke"), logged(smoke)) == before


def logged(folder: Path) -> dict[str, int]:
    """When each log of a sweep's processes was written last; a sweep that starts any begins them anew."""
    return {file.name: file.stat().st_mtime_ns for file in (folder / "results" / "smoke" / "logs").iterdir()}


def processes_naming(text: str) -> list[int]:
    """Ids of the processes with a text in their command line, other than this one."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            named = entry.name.isdigit() and text in (entry / "cmdline").read_text()
        except OSError:
            continue  # it has ended
        if named and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def kill_at(samples: int, folder: Path, sign: signal.Signals, *arguments: object) -> None:
    """Start a sweep and kill it, and nothing that it has started, once so many samples are on disk."""
    process = start("sweep", *arguments, cwd=folder)
    while process.poll() is None and sum(map(len, _lines(folder))) < samples:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(sign)
    process.communicate()
    assert process.returncode != 0
    deadline = time.monotonic() + 5
    while processes_naming(str(folder / "results" / "smoke" / ".jobs")):
        assert time.monotonic() < deadline, "processes of the sweep live on"
        time.sleep(0.1)
    assert sum(map(len, _lines(folder))) < ASKED, "processes of the sweep went on to its end"


def _lines(folder: Path) -> list[list[bytes]]:
    return [file.read_bytes().splitlines() for file in folder.glob("results/*/*/samples*.jsonl")]


@pytest.mark.parametrize(
    ("processes", "sign"), [pytest.param(1, signal.SIGKILL, marks=pytest.mark.thorough), (2, signal.SIGINT)]
)
def test_a_sweep_that_was_killed_goes_on_to_the_same_answers_and_scores(small, tmp_path, processes, sign):
    arguments = changed(tmp_path, launcher={"cpu": True}, **SMALL), "--processes", processes
    moment = random.randint(1, ASKED // 2)
    kill_at(moment, tmp_path, sign, *arguments)
    cut_off_a_line(tmp_path / "results" / "smoke")
    kept = {sample for run in answers_on_disk(tmp_path).values() for sample in run}
    done = dycoke("sweep", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    undisturbed = small / "results" / "smoke"
    assert answers(tmp_path / "results" / "smoke") == answers(undisturbed), f"killed at {moment}"
    ours, theirs = metrics(tmp_path / "results" / "smoke"), metrics(undisturbed)
    assert {run: scores(ours[run]) for run in ours} == {run: scores(theirs[run], pytest.approx) for run in theirs}
    assert kept <= {sample for run in answers_on_disk(tmp_path).values() for sample in run}  # times and all


def cut_off_a_line(home: Path) -> None:
    """End in the middle of a line, as a full disk or a lost machine leaves it, unless all runs on disk are complete.

    A complete run's samples are never written again, so nothing can cut them short.
    """
    files = [file for file in home.glob("*/samples*.jsonl") if not (file.parent / "metrics.json").exists()]
    if files:
        last = max(files, key=lambda file: file.stat().st_mtime)
        last.write_bytes(last.read_bytes()[:-7])


def answers_on_disk(folder: Path) -> dict[str, list[str]]:
    """Whole lines of samples, by run."""
    found: dict[str, list[str]] = {}
    for file in folder.glob("results/*/*/samples*.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        found.setdefault(file.parent.name, []).extend(line for line in lines if line.endswith("}\n"))
    return found


def scores(content: dict, number: Callable[[float], Any] = float) -> dict:
    """What does not depend on times, or on the order in which processes hand in their samples."""
    means = {
        task: {metric: number(value) for metric, value in each.items() if "stderr" not in metric}
        for task, each in content["scores"].items()
    }
    tokens = {key: content["usage"][key] for key in ("visual_tokens", "visual_kept", "inside", "decode", "new_tokens")}
    return {"scores": means, "tokens": tokens, "fingerprint": content["fingerprint"], "samples": content["samples"]}


def test_two_machines_share_the_samples(small, tmp_path):
    few = SMALL | {"limit": 3, "tasks": ["nano_samples_long"], "launcher": {"cpu": True}}
    file = changed(tmp_path, **few)
    common = "sweep", file, "--machines", 2, "--main-address", "127.0.0.1", "--main-port", free_port()
    machines = [start(*common, "--machine-rank", rank, cwd=tmp_path) for rank in (1, 0)]
    errors = [machine.communicate(timeout=300)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], errors
    whole = answers(small / "results" / "smoke")
    shared = answers(tmp_path / "results" / "smoke")
    assert len(shared) == 2
    assert shared == {run: [each for each in whole[run] if each[1] < 3] for run in shared}
    assert sorted(file.name for file in tmp_path.glob("results/smoke/logs/*")) == ["nano.1.log", "nano.log"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_model_sharded_by_deepspeed_answers_as_one_that_is_whole(small, tmp_path):
    pytest.importorskip("deepspeed")
    zero = json.loads((SMOKE.parents[1] / "scripts" / "deepspeed" / "zero3_inference.json").read_text())
    zero["zero_optimization"]["overlap_comm"] = False  # there is nothing to overlap on a CPU
    (tmp_path / "zero.json").write_text(json.dumps(zero))
    launcher = {"processes": 2, "cpu": True, "deepspeed": "zero.json"}
    done = dycoke("sweep", changed(tmp_path, **SMALL | {"launcher": launcher, "limit": 2}), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = answers(small / "results" / "smoke")
    sharded = answers(tmp_path / "results" / "smoke")
    assert sharded == {run: [each for each in found if each[1] < 2] for run, found in whole.items()}


def test_two_sweeps_of_one_experiment_do_not_run_beside_each_other(tmp_path):
    file = changed(tmp_path, **SMALL)
    one = start("sweep", file, cwd=tmp_path)
    while not (tmp_path / "results" / "smoke" / "logs").exists():
        assert one.poll() is None, one.communicate()[1]
        time.sleep(0.05)
    other = dycoke("sweep", file, cwd=tmp_path)
    assert other.returncode == 2
    assert "another sweep is at work there" in other.stderr and len(other.stderr.splitlines()) == 1
    one.kill()
    one.communicate()


def test_an_unreadable_video_ends_the_sweep_with_the_name_of_its_sample(tmp_path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    good, bad = SAMPLES_PATH / "digits.mp4", tmp_path / "bad.mp4"
    bad.write_bytes(good.read_bytes()[:5000])
    docs = [{"video": str(video), "question": "What is the last digit?", "answer": "2"} for video in (good, bad, good)]
    (tasks / "docs.json").write_text(json.dumps(docs))
    (tasks / "functions.py").write_text(FUNCTIONS)
    (tasks / "own.yaml").write_text(TASK)
    done = dycoke(
        "sweep", changed(tmp_path, **SMALL | {"tasks": ["own_task"], "include_path": str(tasks)}), cwd=tmp_path
    )
    assert done.returncode == 2
    *_, last = done.stderr.splitlines()
    assert last.startswith("dycoke: nano_f8_full__own_task: task own_task, doc_id 1: ") and "bad.mp4" in last
    assert "Traceback" not in done.stderr
    assert not metrics(tmp_path / "results" / "smoke")
    answered = answers(tmp_path / "results" / "smoke")["nano_f8_full__own_task"]
    assert {doc_id for _, doc_id, _ in answered} <= {0, 2}
    bad.write_bytes(good.read_bytes())
    again = dycoke("sweep", tmp_path / "smoke.yaml", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(metrics(tmp_path / "results" / "smoke")) == 2


TASK = """
task: own_task
dataset_path: json
dataset_kwargs: {data_files: {test: docs.json}}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.video
doc_to_text: "question"
doc_to_target: "answer"
generation_kwargs: {max_new_tokens: 8, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
FUNCTIONS = """
def video(doc):
    return [doc["video"]]
"""
