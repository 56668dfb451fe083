"""The method table, the version, and how options are written."""

from __future__ import annotations

import pytest

from dycoke.options import parse_method, parse_options, parse_value, parse_yaml, write_value
from dycoke.registry import available, entry
from dycoke.version import __version__


def test_table_has_every_method_option_default_source_and_paper(dycoke):
    done = dycoke("methods")
    assert (done.code, done.err) == (0, "")
    words = " ".join(done.out.split())
    for name in available():
        row = entry(name)
        assert name in words
        for option, (default, _) in row.options.items():
            assert f"{option} = {default}" in words
        if row.paper:
            assert row.paper in done.out
        # Text cells are wrapped over several lines among other columns, so look for their words.
        for text in (row.summary, row.source, *(text for _, text in row.options.values())):
            assert text and all(word in words for word in text.split())


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
    with pytest.raises(ValueError, match="is no value in YAML"):
        parse_method(f"dycoke,{text}")


@pytest.mark.parametrize(
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
        with pytest.raises(ValueError, match="no value in YAML: 'a' is given twice") as caught:
            parse_yaml(text)
        assert "\n" not in str(caught.value)


def test_yaml_makes_no_objects():
    with pytest.raises(ValueError, match="no value in YAML"):
        parse_options(["k=!!python/object/apply:os.getcwd []"])


def test_an_option_given_twice():
    with pytest.raises(ValueError, match="option 'k' is given twice"):
        parse_options(["k=0.5", "k=0.6"])
