"""Published numbers, for the columns of a report that stand beside ours. None of them was measured by this project."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from dycoke.text.bounded_yaml import read_yaml
from dycoke.text.brief import brief

TABLES = Path(__file__).resolve().parents[3] / "results" / "paper" / "tables.yaml"


def published(table: str, model: str, row: str, column: str) -> float | None:
    """Number that a published table prints in a row and a column for a model, None where it prints none.

    model: the name of a checkpoint, or a path or hub name that ends in it; its conversion for transformers, which is
    called the same with -hf behind it, counts as it. Rows and columns are those of results/paper/tables.yaml. Raises
    ValueError for an unknown table, FileNotFoundError if that file is not there.
    """
    content = published_table(table)
    rows = content["models"].get(Path(model).name.removesuffix("-hf"), {})
    return dict(zip(content["columns"], rows[row], strict=True)).get(column) if row in rows else None


def published_table(table: str) -> dict[str, Any]:
    """A published table: title, columns, models, each with its rows of numbers, and frames where
    all rows have the same. Raises as `published` does.
    """
    tables = _read(TABLES)
    if table not in tables:
        raise ValueError(f"published table {brief(table)}: expected one of {', '.join(tables)}")
    return tables[table]


@cache
def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; published numbers come with a checkout of the repository")
    return read_yaml(path)
