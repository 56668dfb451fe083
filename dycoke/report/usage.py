"""What the KV cache of a request cost while it decoded: columns read, choices made, bytes held and fetched.

Counted on the device and read when the report is, so that counting adds no sync to a step. Holds no keys or values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class CacheReport:
    """The KV cache of one request whose method prunes while decoding.

    layers: of the model; those below first_layer read everything. steps: decode steps, in the engine on CUDA also the
    one that had begun when the answer ended. read_below, read_from: columns a layer of either group read in a step,
    mean over layers, steps and rows (prompt, answer and the token itself); None before the first step and for a group
    without layers. selections: how often the columns were chosen anew, summed over rows; None if no policy counts it.
    device_bytes, host_bytes: keys and values, all columns that were reserved for them. fetched_bytes: brought back from
    the host.
    """

    layers: int
    first_layer: int
    steps: int
    read_below: float | None
    read_from: float | None
    selections: int | None
    device_bytes: int
    host_bytes: int
    fetched_bytes: int


@dataclass(frozen=True)
class InsideReport:
    """What went on into layer `layer`, where visual tokens were dropped.

    tokens: visual tokens, summed over rows. columns: with trace=True, the columns of the prompt that went on, text
    included and padding not, by row.
    """

    layer: int
    tokens: int
    columns: list[list[int]] | None = None


@dataclass
class Entered:
    """Collects what `InsideReport` tells. visual [B]: visual tokens; columns, mask [B, S']: what went on, if traced."""

    layer: int
    visual: Tensor
    columns: Tensor | None = None
    mask: Tensor | None = None

    def report(self) -> InsideReport:
        """Waits for the device."""
        columns = None
        if self.columns is not None:
            rows = zip(self.columns.tolist(), self.mask.tolist(), strict=True)
            columns = [[column for column, real in zip(*row, strict=True) if real] for row in rows]
        return InsideReport(self.layer, int(self.visual.sum()), columns)


@dataclass
class CacheUse:
    """Collects what `CacheReport` tells.

    rows: batch rows; idle: those of them that stand for no prompt, of which they read no column; column_bytes:
    keys and values of a column in one layer.
    """

    layers: int
    first_layer: int
    rows: int
    trace: bool = False
    idle: int = 0
    device_bytes: int = 0
    host_bytes: int = 0
    column_bytes: int = 0
    host_layers: int = 0
    steps: Tensor | None = None
    read_below: Tensor | None = None
    read_from: Tensor | None = None
    fetched: Tensor | None = None
    selections: Tensor | None = None
    noted: list[tuple[Tensor, Tensor, int, Tensor]] = field(default_factory=list)

    def start(self, device: torch.device) -> None:
        """Set the counters to zero, on the device where the columns are chosen."""
        self.steps, self.fetched = torch.zeros(2, dtype=torch.int64, device=device).unbind()
        self.read_below, self.read_from = torch.zeros(2, self.rows, dtype=torch.int64, device=device).unbind()

    def restart(self, idle: int) -> None:
        """Set the counters to zero where they are: a CUDA graph that counts writes there. idle: rows of no prompt."""
        self.idle = idle
        for counter in (self.steps, self.read_below, self.read_from, self.fetched):
            counter.zero_()

    def step(self, below: list[tuple[Tensor, int]], above: list[tuple[Tensor, int]]) -> None:
        """Count a step: columns [B] of the prompt, each with how many layers read so many.

        below: the layers below the first pruned one; above: those from it on. The answer's columns are one more at
        every step, and so need no count. Rows are added up in the report: a step has no time for it.
        """
        self.steps.add_(1)
        for total, read in ((self.read_below, below), (self.read_from, above)):
            for count, layers in read:
                if layers:
                    total.add_(count, alpha=layers)

    def note_columns(self, index: Tensor, count: Tensor, prompt: int, filled: Tensor) -> None:
        """Keep what the step now under way reads: index [B, N], its first count [B] valid, and the answer's columns."""
        self.noted.append((index.clone(), count.clone(), prompt, filled.clone()))

    @property
    def keeps(self) -> list[list[list[int]]] | None:
        """Columns the pruned layers read, ascending, by step and row; None unless traced. Waits for the device."""
        if not self.trace:
            return None
        return [
            [
                sorted(row[:n]) + list(range(prompt, prompt + answer))
                for row, n, answer in zip(index.tolist(), count.tolist(), filled.tolist(), strict=True)
            ]
            for index, count, prompt, filled in self.noted
        ]

    def report(self) -> CacheReport:
        """The counts so far. Waits for the device."""
        steps = int(self.steps)
        rows = self.rows - self.idle
        fetched = int(self.fetched) * self.column_bytes * self.host_layers
        return CacheReport(
            layers=self.layers,
            first_layer=self.first_layer,
            steps=steps,
            read_below=_mean(self.read_below, rows, steps, self.first_layer),
            read_from=_mean(self.read_from, rows, steps, self.layers - self.first_layer),
            selections=None if self.selections is None else int(self.selections.sum()),
            device_bytes=self.device_bytes,
            host_bytes=self.host_bytes,
            fetched_bytes=fetched,
        )


def _mean(prompt: Tensor, rows: int, steps: int, layers: int) -> float | None:
    """Columns read in a step: prompt [B], the prompt's of all steps and layers, and the answer's 1, 2, ... `steps`."""
    return int(prompt.sum()) / (rows * steps * layers) + (steps + 1) / 2 if rows * steps * layers else None
