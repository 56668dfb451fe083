"""Progress of a sweep: runs that are complete, and the samples of the one under way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import progress as bars
from rich.console import Console
from rich.table import Column

from dycoke.eval.runs.folder import RunFolder
from dycoke.eval.runs.specs import RunSpec


class Progress:
    """Two bars on a terminal, and elsewhere a line when a run begins and when it is complete; counted on the disk."""

    def __init__(self, console: Console, results: Path, runs: Sequence[RunSpec]) -> None:
        self._console = console
        self._folders = {run.id: RunFolder.of(results, run) for run in runs}
        self._left = [run.id for run in runs if not self._folders[run.id].complete]
        self._current: str | None = None
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            expand=True,
        )

    def __enter__(self) -> Progress:
        self._bars.start()
        self._runs = self._bars.add_task("runs", total=len(self._folders), completed=self._done)
        self._samples = self._bars.add_task("loading", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @property
    def _done(self) -> int:
        return len(self._folders) - len(self._left)

    def show(self, announced: tuple[str, int] | None) -> None:
        """Show the progress of the run under way; None while the model is loaded."""
        for run in [run for run in self._left if self._folders[run].complete]:
            self._left.remove(run)
            self._line(f"{run}: complete, {self._done} of {len(self._folders)} runs are")
        self._bars.update(self._runs, completed=self._done)
        if announced is None:
            return
        run, total = announced
        answered = self._folders[run].count_samples()
        if run != self._current:
            self._current = run
            self._bars.reset(self._samples, total=total, completed=answered, description=run)
            if run in self._left:
                self._line(f"{run}: answering {total} samples, {answered} of them answered before")
        self._bars.update(self._samples, completed=answered)

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, soft_wrap=True, highlight=False)
