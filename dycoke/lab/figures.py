"""Figures: how they are made, and written so that the same figure is the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dycoke.lab.record import replacing
from dycoke.text.visible import visible_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = 4.5, 3.4  # inches
MARKERS = "osD^vP*X<>hd"  # one for each line, for readers who do not tell the colours apart
_UNDATED = {  # Matplotlib writes the date into a PDF and its own version into both
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}
_DPI = 150


def check_matplotlib() -> None:
    """Raise ValueError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError("plots need matplotlib: pip install 'dycoke[eval]'") from error


def new_figure(rows: int, columns: int, height: float) -> Figure:
    """An empty figure for so many panels, each `height` inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(PANEL[0] * columns + 1.5, height * rows + 0.6), layout="constrained")


def plain(text: str) -> str:
    """Text without formulas of Matplotlib, or characters that it cannot draw."""
    return visible_line(text).replace("$", r"\$")


def write_plot(folder: Path, name: str, figure: Figure | None) -> list[Path]:
    """Write a plot by rename, or remove that of an earlier report where there is none now; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for ending, metadata in _UNDATED.items():
        path = folder / f"{name}.{ending}"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        with replacing(path) as partial:
            figure.savefig(partial, format=ending, dpi=_DPI, metadata=metadata)
        written.append(path)
    return written
