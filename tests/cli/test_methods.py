"""The method table, the version, and how options are written."""

from __future__ import annotations

import pytest

from dycoke.options import parse_method, parse_options
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


def test_yaml_makes_no_objects():
    with pytest.raises(ValueError, match="no value in YAML"):
        parse_options(["k=!!python/object/apply:os.getcwd []"])


def test_an_option_given_twice():
    with pytest.raises(ValueError, match="option 'k' is given twice"):
        parse_options(["k=0.5", "k=0.6"])
