"""How far a sweep is: runs that are complete, and the samples of the one under way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import progress as bars
from rich.console import Console

from dycoke.eval.folder import RunFolder
from dycoke.eval.specs import RunSpec


class Progress:
    """Two bars on a terminal, and a line for each run elsewhere, counted from what is on disk."""

    def __init__(self, console: Console, results: Path, runs: Sequence[RunSpec]) -> None:
        self._console = console
        self._folders = {run.id: RunFolder.of(results, run) for run in runs}
        self._current: str | None = None
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Progress:
        self._bars.start()
        self._runs = self._bars.add_task("runs", total=len(self._folders))
        self._samples = self._bars.add_task("loading", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, announced: tuple[str, int] | None) -> None:
        """Show how far the run under way is; None while the model is loaded."""
        done = sum(folder.complete for folder in self._folders.values())
        self._bars.update(self._runs, completed=done)
        if announced is None:
            return
        run, total = announced
        if run != self._current:
            self._current = run
            self._bars.reset(self._samples, total=total, description=run)
            if not self._console.is_terminal:
                self._console.print(f"{run}: {total} samples")
        self._bars.update(self._samples, completed=self._folders[run].count_samples())
