"""The pages of the methods are what the registry says now."""

from __future__ import annotations

from pathlib import Path

from dycoke.ask.method_pages import index_page, method_markdown
from dycoke.registry import available, entry
from tests.cases import folded

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "methods"


@folded("name", available())
def test_the_page_of_a_method_is_the_generators(name):
    assert (PAGES / f"{name}.md").read_text() == method_markdown(name), "dycoke methods --markdown --out docs/methods"


def test_the_index_is_the_generators_and_no_page_is_left_over():
    assert (PAGES / "index.md").read_text() == index_page(), "dycoke methods --markdown --out docs/methods"
    assert sorted(file.stem for file in PAGES.iterdir()) == sorted([*available(), "index"])


def test_what_has_a_paper_has_its_code():
    for name in available():
        assert bool(entry(name).paper) == entry(name).code.startswith("https://github.com/"), name
