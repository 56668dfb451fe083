"""What mkdocs calls while it builds the site: pages link to files of the repository, which a site of docs/ lacks.

A linked file comes along under `source/`, as text where the site would make a page of it; a link to a folder becomes
its text alone. On a forge the pages are read as they are. What the theme would fetch from elsewhere is taken out.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((\.\./[^)\s#]*)(#[^)\s]*)?\)")

FETCHED = re.compile(r'<script src="https?://[^"]*"></script>')


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page's Markdown with links to the repository's files pointing into the site."""
    home = posixpath.dirname(page.file.src_uri)

    def rewritten(link: re.Match) -> str:
        path = posixpath.normpath(posixpath.join("docs", home, link[3]))
        if path.startswith("docs/"):
            return link[0]
        if not (ROOT / path).is_file():
            return link[2]
        there = site_path(path)
        if files.get_file_from_path(there) is None:
            files.append(File.generated(config, there, abs_src_path=str(ROOT / path)))
        return f"{link[1]}[{link[2]}]({posixpath.relpath(there, home or '.')})"

    return LINK.sub(rewritten, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The page without scripts from elsewhere: the offline plugin adds one, for searching in pages without a server."""
    return FETCHED.sub("", output)


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """The same of what is no page, such as that for addresses that do not exist."""
    return FETCHED.sub("", output)


def site_path(path: str) -> str:
    """Where a file of the repository is in the site."""
    return f"source/{path}.txt" if path.endswith((".md", ".py", ".yaml")) else f"source/{path}"
