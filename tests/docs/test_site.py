"""The site builds without a warning, and needs nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.docs.pages import GENERATED, PAGES, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there(site):
    for page in PAGES:
        if page.startswith("docs/"):
            assert (site / page.removeprefix("docs/")).with_suffix(".html").is_file()


def test_linked_files_come_along_and_nothing_is_fetched(site):
    for file in site.rglob("*.html"):
        text = file.read_text()
        assert not re.search(r'<(?:script|img|iframe)[^>]* src="https?:|<link [^>]*stylesheet[^>]* href="https?:', text)
        for target in re.findall(r'href="([^"#]*source/[^"#]*)', text):
            assert (file.parent / target).is_file(), f"{file.name}: {target}"
    assert (site / "source" / "dycoke" / "methods" / "dycoke.py.txt").read_text().startswith('"""DyCoke')


def test_the_site_lists_every_page():
    told = re.findall(r"\b([\w/.-]+\.md)\b", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2])
    generated = f"{GENERATED}index.md"  # which links to those of the methods
    pages = [page for page in PAGES if page.startswith("docs/") and (page == generated or GENERATED not in page)]
    assert sorted(f"docs/{page}" for page in told) == sorted(pages)
