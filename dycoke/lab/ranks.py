"""Work shared out over the processes of a launcher, and their results brought back into the order of the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import distributed

PATIENCE = timedelta(weeks=1)  # one process may have hours of work left, or judge answers, while the others wait

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process's number among `world` processes that share the work; one process by itself is 0 of 1.

    Raises ValueError unless 0 <= rank < world.
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} of {self.world} processes: expected 0 to {self.world - 1}")

    @classmethod
    def current(cls, cpu: bool = False) -> Ranks:
        """The ranks of the process group, which is joined first if a launcher started this process and nobody has.

        cpu: the processes compute on the CPU; they do anyway if the launcher says so or there is no GPU. With GPUs,
        the one of this process becomes torch's current device.
        """
        if not distributed.is_initialized():
            cpu = cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
            PartialState(cpu=cpu, timeout=PATIENCE)
        if not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes what all of them have found."""
        return self.rank == 0

    def mine(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's share: every world-th item from its rank on, as lmms-eval deals samples."""
        return items[self.rank :: self.world]

    def gather(self, results: Sequence[Item]) -> list[Item]:
        """Results of all processes for their shares, on each of them, in the order of the items before they were dealt.

        results: one for each item of `mine`. Every process has to call it. Raises ValueError if the numbers of results
        are none that dealing gives.
        """
        if self.world == 1:
            return list(results)
        parts: list[list[Item]] = [[] for _ in range(self.world)]
        distributed.all_gather_object(parts, list(results))
        return interleaved(parts)

    def wait(self) -> None:
        """Return once every process has called it."""
        if self.world > 1:
            distributed.barrier()


def disband() -> None:
    """End the process group, if there is one: its threads may abort a process that ends with them alive."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def interleaved(parts: Sequence[Sequence[Item]]) -> list[Item]:
    """Items that were dealt to len(parts) processes, in their order before.

    Raises ValueError if the parts' lengths are none that dealing gives.
    """
    total, world = sum(map(len, parts)), len(parts)
    dealt = [len(range(rank, total, world)) for rank in range(world)]
    if [len(part) for part in parts] != dealt:
        counts = ", ".join(str(len(part)) for part in parts)
        raise ValueError(
            f"{counts} results of {world} processes: {total} items are dealt as {', '.join(map(str, dealt))}"
        )
    return [parts[number % world][number // world] for number in range(total)]
