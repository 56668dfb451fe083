"""Command lines that start the processes of a group of runs, and the checks that they can start here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dycoke.eval.launch import parent_death
from dycoke.eval.runs.specs import Launcher


@dataclass(frozen=True)
class Node:
    """This machine among those that take part: its rank, and where the first one listens."""

    rank: int = 0
    address: str | None = None


def check_launcher(launcher: Launcher, node: Node) -> None:
    """Raise ValueError or FileNotFoundError if the processes cannot start on this machine."""
    gpus = torch.cuda.device_count()
    if launcher.processes > 1 and not launcher.cpu and launcher.processes > gpus:
        raise ValueError(
            f"launcher: processes={launcher.processes}, but this machine has {gpus} usable GPUs; accepted: at most as "
            "many, or cpu: true"
        )
    if launcher.machines > 1 and (node.address is None or launcher.port is None):
        raise ValueError(
            f"launcher: machines={launcher.machines} needs --main-address and --main-port, those of the first machine"
        )
    if not 0 <= node.rank < launcher.machines:
        raise ValueError(f"machine rank {node.rank}: expected 0 to {launcher.machines - 1}")
    if launcher.deepspeed is not None and not Path(launcher.deepspeed).is_file():
        raise FileNotFoundError(f"launcher: deepspeed {launcher.deepspeed}: no such file")


def command(launcher: Launcher, node: Node, module: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command line of `python -m module arguments`, and what its environment has beside this one's.

    What it starts ends with this process, from its first moment on (`dycoke.eval.launch.parent_death`).
    Several processes start under `accelerate launch`. Its --cpu starts a single one whatever number it is given; asked
    for GPUs it starts them all, and the environment keeps them on the CPU.
    """
    environment = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} if launcher.cpu else {}
    environment |= {parent_death.PARENT: str(os.getpid())}
    own = [str(Path(parent_death.__file__).resolve()), module, *arguments]
    if launcher.count == 1:
        return [sys.executable, *own], environment
    start = [sys.executable, own[0], "accelerate.commands.launch", "--multi_gpu"]
    start += ["--num_processes", str(launcher.count), "--num_machines", str(launcher.machines)]
    start += ["--machine_rank", str(node.rank), "--main_process_port", str(launcher.port or 0)]  # 0: any that is free
    start += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    if node.address is not None:
        start += ["--main_process_ip", node.address]
    return [*start, *own], environment
