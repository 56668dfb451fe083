"""What a miniature data set is: rows in the schema of the data set that it stands for, and files beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Doc = Mapping[str, Any]


@dataclass(frozen=True)
class DataSet:
    """One configuration of a data set of the hub.

    schema: the type of each field, in brackets for a list. folder: where its files lie under HF_HOME, as lmms-eval
    unpacks them; videos: {file: number of the scene it shows}; texts: {file: content}. revision: set if lmms-eval
    reads the files straight from the hub's cache, at that revision, through a link.
    """

    name: str
    config: str
    split: str
    schema: Mapping[str, str | list[str]]
    docs: tuple[Doc, ...]
    folder: str
    videos: Mapping[str, int]
    texts: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None
