"""Start a module in several processes that compute on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys

# `accelerate launch --cpu` starts one process, whatever number it is given; this way it starts all, and none on a GPU.
_LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
_LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def launch(processes: int, module: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*_LAUNCH, "--num_processes", str(processes), "-m", module, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
