"""Where a model of an evaluation goes: a device of its own for each process, or one model over several GPUs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from dycoke.eval.shards import PATIENCE


@dataclass(frozen=True)
class Place:
    """device: of the inputs; device_map: as `from_pretrained` takes it; accelerator: rank and number of processes."""

    device: torch.device
    device_map: str
    accelerator: Accelerator


def place(device: str | None = None, device_map: str | None = None) -> Place:
    """The place of this process's model.

    device: "cpu", "cuda" or "cuda:N", None for a GPU if there is one. device_map="auto" lets one process spread its
    model over all GPUs. Raises ValueError if device_map="auto" meets several processes, or for a GPU that is not there.
    """
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    if accelerator.num_processes > 1:
        if device_map == "auto":
            raise ValueError(
                f"device_map=auto with {accelerator.num_processes} processes: it spreads one process over the GPUs; "
                "start one, or leave device_map out"
            )
        return Place(accelerator.device, str(accelerator.device), accelerator)
    if device_map == "auto" and torch.cuda.is_available() and device != "cpu":
        return Place(torch.device("cuda:0"), "auto", accelerator)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r}: this machine has {torch.cuda.device_count()} usable GPUs; accepted: cpu")
    if chosen.type == "cuda":
        chosen = torch.device("cuda", chosen.index or 0)
    return Place(chosen, str(chosen), accelerator)
