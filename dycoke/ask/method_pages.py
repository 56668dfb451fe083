"""The registered methods in Markdown: a page for each, and the index of docs/methods."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path

from dycoke.ask.method_tables import facts
from dycoke.options import write_value
from dycoke.registry import Entry, available, entry

_ROOT = Path(__file__).resolve().parents[2]
_TO_ROOT = "../../"  # from docs/methods
_NONE = "-"
_INDEX = """\
# Methods

Made by `dycoke methods --markdown --out docs/methods` from what each method registers: change the code, then run that.

A stage is a place where visual tokens can be removed: `before` the language model, `inside` its layers during prefill,
or while it `decode`s. `needs` names what a method reads beside the tokens: `saliency` (the attention they receive in
the vision tower) or its `keys`. [Choosing a method](../guide/methods.md) says what else the columns of a page mean.
"""


def index_page() -> str:
    """All methods in one table, each linked to its page, its paper and its file."""
    header = _table_head("method", "what it does", "stage", "needs", "paper", "source")
    return "\n".join([_INDEX, *header, *map(_index_row, map(entry, available()))]) + "\n"


def method_markdown(name: str) -> str:
    """The page of one method. Raises ValueError for an unknown name."""
    row = entry(name)
    summary, *rest = (" ".join(part.split()) for part in inspect.getdoc(row.cls).split("\n\n"))
    parts = [f"# `{name}`", f"**{summary}**", *rest, _facts_table(row), "## Options", _options(row)]
    parts += ["## As its authors run it", f"{_sentence(row.official)}"]
    parts += ["## Where it differs from the released code", _deviations(row)]
    return "\n\n".join(parts) + "\n"


def write_pages(folder: Path) -> list[Path]:
    """Write the index and every method's page into a folder, and return the files.

    Raises OSError where that cannot be done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"index": index_page(), **{name: method_markdown(name) for name in available()}}
    files = [folder / f"{name}.md" for name in pages]
    for file, text in zip(files, pages.values(), strict=True):
        file.write_text(text, encoding="utf-8")
    return files


def _index_row(row: Entry) -> str:
    paper = _link("paper", row.paper) if row.paper else _NONE
    stage, needs = ", ".join(row.stages), ", ".join(row.needs) or _NONE
    return _table_row(f"[`{row.name}`]({row.name}.md)", row.summary, stage, needs, paper, _source_link(row))


def _facts_table(row: Entry) -> str:
    told = {key: text for key, text in facts(row).items() if key != "official defaults"}
    told["described in"] = _link(row.source, row.paper) if row.paper else row.source
    told["released code"] = _link(row.code.removeprefix("https://"), row.code) if row.code else _NONE
    told["source file"] = _source_link(row)
    return "\n".join([*_table_head("fact", "value"), *(_table_row(key, text) for key, text in told.items())])


def _options(row: Entry) -> str:
    if not row.options:
        return "It has none.\n\n" + _example(row.name, ())
    rows = [
        _table_row(f"`{option}`", f"`{write_value(default)}`", meaning)
        for option, (default, meaning) in row.options.items()
    ]
    first, (default, _) = next(iter(row.options.items()))
    table = "\n".join([*_table_head("option", "default", "meaning"), *rows])
    return f"{table}\n\n{_example(row.name, (f'{first}={write_value(default)}',))}"


def _example(name: str, options: tuple[str, ...]) -> str:
    told = "".join(f" --option {shlex.quote(option)}" for option in options)
    return f'```bash\ndycoke ask video.mp4 "What happens?" --method {name}{told}\n```'


def _deviations(row: Entry) -> str:
    if not row.deviations:
        return "No difference is declared."
    return "\n".join(f"- {' '.join(each.split())}" for each in row.deviations)


def _source_link(row: Entry) -> str:
    """Its file, linked where it is in this repository."""
    file = Path(inspect.getsourcefile(row.cls)).resolve()
    if not file.is_relative_to(_ROOT):
        return f"`{file.name}`"
    return _link(f"`{file.relative_to(_ROOT).as_posix()}`", f"{_TO_ROOT}{file.relative_to(_ROOT).as_posix()}")


def _link(text: str, target: str) -> str:
    return f"[{text}]({target})"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _table_head(*cells: str) -> list[str]:
    return [_table_row(*cells), _table_row(*("---" for _ in cells))]


def _table_row(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"
