"""The method table, the version, and how options are written."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest

from dycoke import registry
from dycoke.ask.method_pages import method_markdown
from dycoke.options import parse_method, parse_options, parse_value, parse_yaml, write_value
from dycoke.registry import available, entry
from dycoke.version import __version__
from tests.cases import folded


def blocks(out: str) -> dict[str, str]:
    """What stands under each method's name below the table."""
    parts = re.split(r"^(\w+)$", out, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_table_says_where_each_method_works_and_what_it_keeps(dycoke):
    done = dycoke("methods")
    assert (done.code, done.err) == (0, "")
    table = done.out.partition(f"\n{available()[0]}\n")[0]
    for column in ("name", "stage", "needs", "positions", "retention"):
        assert column in table
    for name in available():
        row = entry(name)
        (line,) = re.findall(rf"^ *{name} .*$", table, re.MULTILINE)
        words = [*", ".join(row.stages).split(), *(", ".join(row.needs) or "-").split(), row.positions]
        assert line.split()[1 : 1 + len(words)] == words
        assert line.split()[1 + len(words)] == row.retention.split()[0]


def test_under_the_table_is_the_rest_of_every_method(dycoke):
    told = blocks(dycoke("methods").out)
    assert list(told) == available()
    for name, text in told.items():
        row, words = entry(name), " ".join(text.split())
        for option, (default, meaning) in row.options.items():
            assert f"{option} = {write_value(default)} {meaning}" in words and meaning
        said = [row.summary, f"official defaults {row.official}", f"source {row.source}"]
        for sentence in (*said, *(f"deviation {each}" for each in row.deviations)):
            assert " ".join(sentence.split()) in words
        assert (f"paper {row.paper}" in words) == bool(row.paper)
        assert (f"released code {row.code}" in words) == bool(row.code)


def test_a_link_is_whole_in_a_narrow_terminal(dycoke, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = dycoke("methods").out
    assert all(entry(name).paper in out for name in available())
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", available())
def test_one_method_in_full(dycoke, name):
    done = dycoke("methods", name)
    assert (done.code, done.err) == (0, "")
    row, words = entry(name), " ".join(done.out.split())
    facts = f"stage {', '.join(row.stages)} needs {', '.join(row.needs) or '-'} positions {row.positions} retention "
    assert facts + " ".join(row.retention.split()) in words
    assert " ".join(inspect.getdoc(row.cls).split()) in words
    assert list(blocks(done.out)) == [name]


def test_an_unknown_method(dycoke):
    for arguments in (("methods", "dycok"), ("methods", "dycok", "--markdown")):
        assert "unknown method 'dycok'; available: " in dycoke(*arguments).complaint


def test_markdown_is_the_index_or_a_page(dycoke):
    rows = [line for line in dycoke("methods", "--markdown").out.splitlines() if line.startswith("| [`")]
    assert [re.match(r"\| \[`(\w+)`\]\(\1\.md\) \|", row)[1] for row in rows] == available()
    assert all(len(re.split(r"(?<!\\) \| ", row)) == 6 for row in rows)
    page, row = dycoke("methods", "dycoke", "--markdown").out, entry("dycoke")
    assert page.startswith(f"# `dycoke`\n\n**{row.summary}**\n")
    for said in ("| stage | before, decode |", "| needs | - |", "| positions | packed |", "| `k` | `0.7` | K, share "):
        assert f"\n{said}" in page
    assert f"[{row.source}](https://arxiv.org/abs/2411.15024)" in page and f"]({row.code}) |" in page
    assert [line[2:] for line in page.splitlines() if line.startswith("- ")] == list(row.deviations)
    assert "\n- " not in dycoke("methods", "full", "--markdown").out


def test_pages_are_written_for_all_methods_at_once(dycoke, tmp_path):
    done = dycoke("methods", "--markdown", "--out", str(tmp_path / "pages"))
    assert (done.code, done.out) == (0, "")
    assert sorted(file.stem for file in (tmp_path / "pages").iterdir()) == sorted([*available(), "index"])
    assert (tmp_path / "pages" / "fastv.md").read_text() == dycoke("methods", "fastv", "--markdown").out
    for arguments in (("--out", "x"), ("full", "--markdown", "--out", "x")):
        assert "--out writes the pages of all methods" in dycoke("methods", *arguments).complaint


def test_a_bar_in_a_cell_does_not_end_it(monkeypatch):
    row = dataclasses.replace(entry("full"), retention="a | b\nc")
    monkeypatch.setitem(registry._methods, "full", row)
    assert "\n| retention | a \\| b c |\n" in method_markdown("full")


def test_version(dycoke):
    assert dycoke("--version").out == f"dycoke {__version__}\n"


def test_values_are_yaml():
    assert parse_options(["k=0.7", "variant=paper", "flag=true", "list=[1, 2]", "a=b=c", "keep=1e-3"]) == {
        "k": 0.7,
        "variant": "paper",
        "flag": True,
        "list": [1, 2],
        "a": "b=c",
        "keep": 0.001,
    }
    assert parse_options(["decode=off", "a=false", "b= True", "c=no"]) == {
        "decode": "off",
        "a": False,
        "b": True,
        "c": "no",
    }
    assert parse_method("dycoke,k=0.5") == ("dycoke", {"k": 0.5})
    assert parse_method("full") == ("full", {})


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("pdrop,layers=[8,16,24],keep=0.5", {"layers": [8, 16, 24], "keep": 0.5}),
        ("pdrop,keep=0.5,layers=[8, 16]", {"layers": [8, 16], "keep": 0.5}),
        (
            "pdrop, a=[[1,2],[3,4]], b={c: 1, d: [off, 1e-3]}",
            {"a": [[1, 2], [3, 4]], "b": {"c": 1, "d": ["off", 1e-3]}},
        ),
    ],
)
def test_commas_in_brackets_part_no_options(text, options):
    assert parse_method(text) == ("pdrop", options)


@pytest.mark.parametrize("text", ["k=[1,2", "k=[1,2,l=3", "k=],l=3"])
def test_brackets_that_do_not_match(text):
    with pytest.raises(ValueError, match="is not a value in YAML"):
        parse_method(f"dycoke,{text}")


@folded(
    "value",
    [0.7, 1e-9, 3, True, False, None, "", "paper", "off", "0.5", "true", "a b", "a: b", "1e-3", [8, 16], ["off"]],
)
def test_a_written_value_is_read_back(value):
    read = parse_value(write_value(value))
    assert (read, type(read)) == (value, type(value))
    assert parse_value(write_value((8, 16))) == [8, 16]


def test_plain_values_are_written_plainly():
    values = [0.7, 3, True, None, "paper", "off", (8, 16), ""]
    assert list(map(write_value, values)) == ["0.7", "3", "true", "null", "paper", "off", "[8, 16]", '""']


def test_a_key_stands_once():
    assert parse_yaml("a: off\nb: {c: 1e-3, d: yes}") == {"a": "off", "b": {"c": 1e-3, "d": "yes"}}
    for text in ("a: 1\nb: 2\na: 1", "{c: {a: 1, a: 2}}"):
        with pytest.raises(ValueError, match="not a value in YAML: 'a' is given twice") as caught:
            parse_yaml(text)
        assert "\n" not in str(caught.value)


def test_yaml_makes_no_objects():
    with pytest.raises(ValueError, match="not a value in YAML"):
        parse_options(["k=!!python/object/apply:os.getcwd []"])


def test_an_option_given_twice():
    with pytest.raises(ValueError, match="option 'k' is given twice"):
        parse_options(["k=0.5", "k=0.6"])
