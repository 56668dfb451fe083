"""Start a module in several processes that compute on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import warm

ROOT = Path(__file__).parents[3]
# `accelerate launch --cpu` starts one process, whatever number it is given; this way it starts all, and none on a GPU.
_LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
_LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def launch(processes: int, module: str, *arguments: str, cold: bool = False) -> subprocess.CompletedProcess:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [*_LAUNCH, "--num_processes", str(processes), "-m", module, *arguments]
    return warm.run(command, env=environment, cold=cold, capture_output=True, text=True, timeout=300)
