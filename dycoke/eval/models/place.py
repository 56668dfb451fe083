"""Where a model of an evaluation goes: a device of its own for each process, one model over GPUs, or over processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import nn

from dycoke.eval.models.zero3 import partitioned, read_config, shard
from dycoke.families.chat import DTYPES
from dycoke.lab.ranks import PATIENCE


@dataclass(frozen=True)
class Place:
    """device: of the inputs; device_map: as `from_pretrained` takes it; accelerator: rank and number of processes.

    zero: DeepSpeed's configuration where one model is sharded over all processes, which then answer every sample
    together; None where each has a model and a share of the samples.
    """

    device: torch.device
    device_map: str | None
    accelerator: Accelerator
    zero: Mapping[str, Any] | None = None

    @property
    def replicated(self) -> bool:
        """Whether all processes answer every sample."""
        return self.zero is not None

    @property
    def share(self) -> tuple[int, int]:
        """Rank and number of processes that share the samples."""
        return (0, 1) if self.replicated else (self.accelerator.process_index, self.accelerator.num_processes)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Within it, a model that is to be sharded is loaded so; others as ever."""
        with nullcontext() if self.zero is None else partitioned(self.zero):
            yield

    def loaded(self, model: nn.Module) -> None:
        """What a model needs once it is loaded, before a method is put on it."""
        if self.zero is not None:
            shard(model, self.zero)


def place(
    device: str | None = None,
    device_map: str | None = None,
    deepspeed: str | None = None,
    dtype: str | torch.dtype = "float16",
) -> Place:
    """The place of this process's model.

    device: "cpu", "cuda" or "cuda:N", None for the one that device_map names, or for a GPU if there is one.
    device_map="auto" lets one process spread its model over all GPUs. deepspeed: a JSON file of ZeRO stage 3, for
    weights of `dtype`. Raises ValueError if device_map="auto" meets several processes, for a GPU that is not there, for
    another name, and what `read_config` raises.
    """
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    if deepspeed is not None:
        zero = read_config(deepspeed, DTYPES.get(dtype, dtype))
        return Place(accelerator.device, None, accelerator, zero)
    if accelerator.num_processes > 1:
        if device_map == "auto":
            raise ValueError(
                f"device_map=auto with {accelerator.num_processes} processes: it spreads one process over the GPUs; "
                "start one, or leave device_map out"
            )
        return Place(accelerator.device, str(accelerator.device), accelerator)
    if device_map == "auto" and torch.cuda.is_available() and device != "cpu":
        return Place(torch.device("cuda:0"), "auto", accelerator)
    named = device or (device_map if device_map != "auto" else None)
    chosen = _device(named or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {named!r}: this machine has {torch.cuda.device_count()} usable GPUs; accepted: cpu")
    if chosen.type == "cuda":
        chosen = torch.device("cuda", chosen.index or 0)
    return Place(chosen, str(chosen), accelerator)


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r}: expected cpu, cuda or cuda:N, or device_map=auto") from error
