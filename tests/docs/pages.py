"""The pages for readers: README and its neighbours, those of results and llava, and everything in docs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FRONT = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md", "llava/README.md")
PAGES = [*FRONT, *sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "docs").rglob("*.md"))]
GENERATED = "docs/methods/"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """A page with its lines joined, so that a sentence is found wherever it breaks."""
    return " ".join(text_of(page).split())


def blocks(language: str, page: str) -> list[str]:
    """What stands in the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)


def all_blocks(language: str) -> list[tuple[str, str]]:
    """Every block of a language with its page."""
    return [(page, block) for page in PAGES for block in blocks(language, page)]


def cells(page: str) -> list[list[str]]:
    """The rows of a page's tables."""
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in text_of(page).splitlines() if row[:1] == "|"]


def without_code(text: str) -> str:
    """A text without its fenced blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def links(page: str) -> Iterator[str]:
    """Targets of a page's links and pictures."""
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: str) -> set[str]:
    """What a page's headings are called in a link, as forges and the site's generator name them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower())) for heading in headings}
