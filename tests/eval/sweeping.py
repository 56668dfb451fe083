"""`dycoke sweep` as a process, offline, and what its folders then hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "eval_configs" / "smoke.yaml"


def environment(home: Path, **more: str) -> dict[str, str]:
    """That of a machine without network and GPU."""
    offline = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": ""} | offline | more


def _interruptible() -> None:
    """A shell that runs the tests in the background has them, and what they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*arguments: object, cwd: Path, within: Sequence[str] = (), **more: str) -> subprocess.Popen:
    """Start `dycoke ARGUMENTS` in a folder, behind the words `within`, with its output in pipes."""
    line = [*within, sys.executable, "-m", "dycoke.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, cwd=cwd, env=environment(cwd / "home", **more), preexec_fn=_interruptible, **pipes)


def dycoke(*arguments: object, cwd: Path, **more) -> subprocess.CompletedProcess:
    """Run `dycoke ARGUMENTS` in a folder to its end."""
    process = start(*arguments, cwd=cwd, **more)
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def metrics(folder: Path) -> dict[str, dict]:
    """Metrics of every complete run of an experiment's folder, by run."""
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("*/metrics.json"))}


def answers(folder: Path) -> dict[str, list]:
    """(task, doc_id, answer) of every sample of every run."""
    return {
        file.parent.name: [
            (sample["task"], sample["doc_id"], sample["answer"])
            for sample in map(json.loads, file.read_text().splitlines())
        ]
        for file in sorted(folder.glob("*/samples.jsonl"))
    }
