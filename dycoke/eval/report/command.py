"""`dycoke report`: the tables and plots of an experiment, written from its runs and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dycoke.eval.report import plots
from dycoke.eval.report.difference_table import difference_table
from dycoke.eval.report.efficiency_table import efficiency_records, efficiency_table
from dycoke.eval.report.main_table import main_records, main_table
from dycoke.eval.report.numbers import Published
from dycoke.eval.report.results import read_results
from dycoke.eval.report.table_formats import csv_text, latex, markdown
from dycoke.eval.runs.folder import EXPERIMENT
from dycoke.lab.figures import check_matplotlib, write_plot
from dycoke.lab.record import write_text

_PLOTS = {
    "bars": plots.bars,
    "frames": plots.score_against_frames,
    "retention": plots.score_against_retention,
}


@dataclass(frozen=True)
class Written:
    """The tables in Markdown; the main one is the same for the same answers, the times of efficiency differ.

    difference: of two methods that were named, None without; it is not written into a file. files: those that were.
    """

    main: str
    efficiency: str
    difference: str | None
    files: tuple[Path, ...]


def write_report(experiment: str, results: Path, pair: tuple[str, str] | None = None) -> Written:
    """Write the tables and plots of an experiment below its folder, the same bytes for the same runs.

    experiment: as `read_results` takes it, or the experiment's folder itself, wherever it is. pair: labels of two
    methods to be compared. Raises ValueError as `read_results` and `difference_table` do, where
    matplotlib is missing, and for an unknown published table; nothing is written then.
    """
    check_matplotlib()
    if (Path(experiment) / EXPERIMENT).is_file():
        folder = Path(experiment).resolve()
        experiment, results = folder.name, folder.parent
    found = read_results(experiment, results)
    difference = None if pair is None else markdown(difference_table(found, *pair))
    paper = Published(found)
    tables = {
        "main": (main_table(found, paper), list(main_records(found, paper))),
        "efficiency": (efficiency_table(found, paper), list(efficiency_records(found, paper))),
    }
    figures = {name: draw(found) for name, draw in _PLOTS.items()}
    folder = results / found.experiment.name
    written, files = {}, []
    for name, (table, records) in tables.items():
        written[name] = markdown(table)
        texts = {"md": written[name], "tex": latex(table), "csv": csv_text(records)}
        files += _write_texts(folder / "tables", name, texts)
    for name, figure in figures.items():
        files += write_plot(folder / "plots", name, figure)
    return Written(written["main"], written["efficiency"], difference, tuple(files))


def _write_texts(folder: Path, name: str, texts: dict[str, str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{name}.{ending}": text for ending, text in texts.items()}
    for file, text in files.items():
        write_text(file, text)
    return list(files)
