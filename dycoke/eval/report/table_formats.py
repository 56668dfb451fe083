"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dycoke.eval.report.table import Cell, Table
from dycoke.text.visible import visible_line

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{char: f"\\{char}" for char in "&%$#_"},
    **{char: f"{{{char}}}" for char in "[]*"},  # behind the end of a row they would be its arguments
}
_LIGATURE = re.compile(r"(?<=([-`',]))(?=\1)|(?<=[?!])(?=`)")  # where LaTeX makes one sign of two
# an underscore within a word is plain
_MARKDOWN = re.compile(r"([\\`*|<>\[\]~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_FORMULA = tuple("=+-@＝＋－＠")
_LATEX_RANKS = ("{}", r"\textbf{{{}}}", r"\underline{{{}}}")
_MARKDOWN_RANKS = ("{}", "**{}**", "<u>{}</u>")


def markdown(table: Table) -> str:
    """The table in Markdown, one per section, columns padded to be read as they are."""
    lines = [f"# {escape_markdown(table.title)}"]
    for section in table.sections:
        lines += ["", f"## {escape_markdown(section.heading)}", ""]
        lines += _aligned([list(map(escape_markdown, table.headers)), *(map(_markdown_row, section.rows))])
    lines += ["", *(f"- {escape_markdown(line)}" for line in table.foot)]
    if table.notes:
        lines += ["", *(f"- [{number}] {escape_markdown(note)}" for number, note in enumerate(table.notes, 1))]
    lines += ["", "Runs:", ""]
    lines += [f"- {escape_markdown(row)}: {', '.join(f'`{run}`' for run in runs)}" for row, runs in table.runs]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """The table in LaTeX, as wide as the text; to be included where booktabs and graphicx are loaded."""
    width = len(table.headers)
    lines = [
        "% Written by `dycoke report`, which overwrites it. Needs the packages booktabs and graphicx.",
        r"\begin{table*}[t]",
        r"\centering",
        f"\\caption{{{escape_latex(table.title)}}}",
        r"\resizebox{\textwidth}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
        _latex_row(map(escape_latex, table.headers)),
    ]
    for section in table.sections:
        heading = f"\\multicolumn{{{width}}}{{l}}{{\\textit{{{escape_latex(section.heading)}}}}}"
        lines += [r"\midrule", f"{heading} \\\\", *(_latex_row(map(_latex_cell, row)) for row in section.rows)]
    lines += [r"\bottomrule", r"\end{tabular}}", "", r"\footnotesize", r"\raggedright"]
    lines += [f"{escape_latex(line)}\\par" for line in table.foot]
    lines += [f"\\textsuperscript{{{number}}} {escape_latex(note)}\\par" for number, note in enumerate(table.notes, 1)]
    for row, runs in table.runs:
        named = ", ".join(f"\\texttt{{{escape_latex(run)}}}" for run in runs)
        lines.append(f"Run{'s' if len(runs) > 1 else ''} of {escape_latex(row)}: {named}\\par")
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def csv_text(records: Iterable[Mapping[str, Any]]) -> str:
    """Records as CSV with a header: numbers with all their digits, nothing for None.

    A text that a spreadsheet would run, because it begins with =, +, - or @, has an apostrophe in front.
    """
    records = [{key: _csv_cell(value) for key, value in record.items()} for record in records]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def escape_markdown(text: str) -> str:
    """A text on one line in which Markdown finds nothing of its own."""
    return _MARKDOWN.sub(r"\\\1", visible_line(text))


def escape_latex(text: str) -> str:
    """A text on one line in which LaTeX finds nothing of its own."""
    return "".join(_LATEX.get(char, char) for char in _LIGATURE.sub("\0", visible_line(text))).replace("\0", "{}")


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = visible_line(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _markdown_row(row: Sequence[Cell]) -> list[str]:
    return [_marked(cell, escape_markdown, _MARKDOWN_RANKS, " [{}]") for cell in row]


def _latex_cell(cell: Cell) -> str:
    return _marked(cell, escape_latex, _LATEX_RANKS, r"\textsuperscript{{{}}}")


def _marked(cell: Cell, escape: Callable[[str], str], marks: Sequence[str], note: str) -> str:
    beside = f" {escape(cell.beside)}" if cell.beside else ""
    return marks[cell.rank].format(escape(cell.text)) + beside + "".join(note.format(number) for number in cell.notes)


def _latex_row(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines: the first column to the left, numbers to the right."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[_padded(place, text, widths) for place, text in enumerate(row)] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])]


def _padded(place: int, text: str, widths: Sequence[int]) -> str:
    return text.rjust(widths[place]) if place else text.ljust(widths[place])
