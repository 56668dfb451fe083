"""README is one screen, and what it shows first works."""

from __future__ import annotations

import re

from dycoke.registry import available
from tests.docs.pages import blocks, links, text_of
from tests.docs.test_pages import command_lines


def test_it_is_one_screen():
    assert len(text_of("README.md").splitlines()) <= 80


def test_two_commands_come_first():
    assert [line.split(" ", 2)[:2] for line in command_lines("README.md")] == [
        ["bash", "scripts/quickstart.sh"],
        [".venv/bin/dycoke", "ask"],
    ]
    assert command_lines("docs/quickstart.md")[:2] == ["bash scripts/quickstart.sh", "bash scripts/test.sh"]


def test_every_method_is_linked_to_its_page():
    pages = [link for link in links("README.md") if link.startswith("docs/methods/")]
    assert pages == [f"docs/methods/{name}.md" for name in available()]
    assert re.findall(r"\[`(\w+)`\]\(docs/methods/", text_of("README.md")) == available()


def test_the_paper_can_be_cited():
    (entry,) = blocks("bibtex", "README.md")
    cff = text_of("CITATION.cff")
    assert re.search(r"title\s*= \{(.*)\}", entry)[1] in cff and re.search(r"year\s*= \{(\d+)\}", entry)[1] in cff
    names = re.findall(r"family-names: (\w+)\n\s+given-names: (\w+)", cff)
    assert re.search(r"author\s*= \{(.*)\}", entry)[1] == " and ".join(f"{last}, {first}" for last, first in names)
