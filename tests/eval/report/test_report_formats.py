"""Tables as text: Markdown and LaTeX that hold together whatever a label says, and CSV that can be read back."""

from __future__ import annotations

import csv
import io
import re

import pytest

from dycoke.eval.report.table import Cell, Notes, Section, Table, number, ranks
from dycoke.eval.report.table_formats import csv_text, escape_latex, escape_markdown, latex, markdown
from tests.eval.report.report_cases import SMALL, small, table_of

NASTY = r"a_b & 50 % of #1 {x} $y$ ~^ <z> | back\slash `code` *star* [link]"


@pytest.fixture
def table() -> Table:
    rows = (
        (Cell(NASTY), Cell("1.00", 1), Cell("-", notes=(1, 2))),
        (Cell("plain"), Cell("0.50", 2), Cell("3.0")),
    )
    sections = (Section("first_one", rows), Section("second", rows[1:]))
    return Table(NASTY, ("Method", "Score (%)", "x & y"), sections, (NASTY,), ("not run", NASTY), ((NASTY, ("r_1",)),))


def latex_cells(line: str) -> list[str]:
    assert line.endswith(r" \\")
    return re.split(r"(?<!\\)&", line.removesuffix(r" \\"))


def check_latex(text: str, width: int) -> None:
    """Braces and environments close, rows have as many cells as columns, and no special character is bare."""
    bare = re.sub(r"\\[&%$#_{}\\]", "", text)
    depth = 0
    for char in bare:
        depth += (char == "{") - (char == "}")
        assert depth >= 0
    assert depth == 0
    open_environments = []
    for what, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if what == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert not open_environments
    columns = re.search(r"\\begin\{tabular\}\{(l?r*)\}", text).group(1)
    assert len(columns) == width
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")].splitlines()[1:]
    for line in body:
        if line == r"\midrule":
            continue
        if line.startswith(r"\multicolumn"):
            assert line.startswith(f"\\multicolumn{{{width}}}")
            assert len(latex_cells(line)) == 1
        else:
            assert len(latex_cells(line)) == width, line
    outside = "\n".join(line for line in text.splitlines() if not line.startswith("%") and not line.endswith("{%"))
    assert not re.search(r"[#$~^|<>%]", re.sub(r"\\[&%$#_{}]", "", outside))
    assert not re.search(r"(?<!\\)_", text)


def test_latex_holds_together_whatever_a_label_says(table):
    text = latex(table)
    check_latex(text, 3)
    assert r"\textbf{1.00}" in text and r"\underline{0.50}" in text
    assert r"-\textsuperscript{1}\textsuperscript{2}" in text
    assert text.count(r"\midrule") == 2


def test_latex_of_a_report_holds_together(tmp_path):
    small(
        tmp_path, lambda spec, metrics: metrics if spec.task == "mvbench" else None, SMALL.replace("A small", "50 %_")
    )
    table = table_of(tmp_path)
    check_latex(latex(table), len(table.headers))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b&c", r"a\_b\&c"),
        ("\\", r"\textbackslash{}"),
        ("{~^}", r"\{\textasciitilde{}\textasciicircum{}\}"),
        ("50 % #1 $", r"50 \% \#1 \$"),
        ("two\n lines", "two lines"),
        ("[5cm] *", "{[}5cm{]} {*}"),
        ("--difference ''x'' ?` ---", "-{}-difference '{}'x'{}' ?{}` -{}-{}-"),
        ("^^5c", r"\textasciicircum{}\textasciicircum{}5c"),
        ("\x1b[0m\ud800\u202e", r"\textbackslash{}x1b{[}0m\textbackslash{}ud800\textbackslash{}u202e"),
    ],
)
def test_what_means_something_in_latex_is_escaped(text, escaped):
    assert escape_latex(text) == escaped


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("random_drop", "random_drop"),
        ("_x_ y_", r"\_x\_ y\_"),
        ("*<b>`", r"\*\<b\>\`"),
        ("a\\b", r"a\\b"),
        ("two\n lines", "two lines"),
        ("~~gone~~ &lt; $x$", r"\~\~gone\~\~ \&lt; \$x\$"),
        ("\x1b]0;t\x07", r"\\x1b\]0;t\\x07"),
    ],
)
def test_what_means_something_in_markdown_is_escaped(text, escaped):
    assert escape_markdown(text) == escaped


def test_markdown_rows_are_of_one_width_and_count(table):
    lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {5}
    assert len({len(line) for line in lines[:4]}) == 1
    assert re.fullmatch(r"\| :-+ \| -+: \| -+: \|", lines[1])
    assert "**1.00**" in lines[2] and "<u>0.50</u>" in lines[3] and "- [1] [2]" in lines[2]


def test_markdown_labels_stand_to_the_left_and_numbers_to_the_right():
    rows = ((Cell("a"), Cell("12.5")), (Cell("longer"), Cell("7")))
    text = markdown(Table("t", ("M", "Tokens"), (Section("s", rows),), (), (), ()))
    assert [line for line in text.splitlines() if line.startswith("|")] == [
        "| M      | Tokens |",
        "| :----- | -----: |",
        "| a      |   12.5 |",
        "| longer |      7 |",
    ]


def test_csv_reads_back_with_all_digits():
    records = [
        {"method": 'a "b", c', "value": 1 / 3, "published": None},
        {"method": "d", "value": 2, "published": 57.0},
    ]
    read = list(csv.DictReader(io.StringIO(csv_text(records))))
    assert float(read[0]["value"]) == 1 / 3
    assert [row["method"] for row in read] == ['a "b", c', "d"]
    assert [row["published"] for row in read] == ["", "57.0"]


@pytest.mark.parametrize(
    ("label", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("\t=1", "'=1"),
        ("\r@x", "'@x"),
        (" \n-2", "'-2"),
        ("a\x1b=\ud800", r"a\x1b=\ud800"),
        ("K=0.3", "K=0.3"),
    ],
)
def test_no_spreadsheet_runs_a_text(label, written):
    text = csv_text([{"method": label, "value": -1.5, "low": None}])
    text.encode()
    assert next(csv.DictReader(io.StringIO(text))) == {"method": written, "value": "-1.5", "low": ""}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 3.0, 2.0, 0.0], [0, 1, 2, 0]),
        ([3.0, 3.0, 2.0, None], [1, 1, 2, 0]),
        ([3.0, 2.0, 2.0, 1.0], [1, 2, 2, 0]),
        ([None, 3.0], [0, 0]),
        ([2.0, 2.0], [1, 1]),
        ([], []),
    ],
)
def test_ties_share_a_rank_and_one_alone_has_none(values, expected):
    assert ranks(values) == expected


@pytest.mark.parametrize(
    ("value", "decimals", "significant", "text"),
    [
        (None, 2, 0, "-"),
        (57.256, 2, 0, "57.26"),
        (0.00123456, 2, 3, "0.00123"),
        (41.4, 2, 3, "41.40"),
        (0, 2, 3, "0.00"),
    ],
)
def test_numbers_keep_enough_digits(value, decimals, significant, text):
    assert number(value, decimals, significant) == text


def test_a_footnote_has_one_number():
    notes = Notes()
    assert [notes.number(text) for text in ("not run", "other", "not run")] == [1, 2, 1]
