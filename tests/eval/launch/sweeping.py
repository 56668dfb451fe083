"""`dycoke sweep` as a process, offline, and what its folders then hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import warm

ROOT = Path(__file__).parents[3]
SMOKE = ROOT / "eval_configs" / "smoke.yaml"


def environment(home: Path, **more: str) -> dict[str, str]:
    """That of a machine without network and GPU."""
    offline = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": ""} | offline | more


def start(*arguments: object, cwd: Path, cold: bool = False, **more: str) -> subprocess.Popen:
    """Start `dycoke ARGUMENTS` in a folder, with its output in pipes; cold: it and all it starts import anew."""
    line = [sys.executable, "-m", "dycoke.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return warm.Popen(line, cwd=cwd, env=environment(cwd / "home", **more), cold=cold, **pipes)


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
