"""Files of JSON lines that grow line by line, and may have been cut off at any point."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dycoke.lab.record import named


def append_line(file: Path, content: Mapping[str, Any]) -> None:
    """Add a line to a file, on the disk when this returns. Raises OSError if it cannot be."""
    with named(file), file.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(content) + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def read_lines(file: Path, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The lines of a file that are JSON objects with these keys; others were cut off or lost."""
    if not file.is_file():
        return
    for line in file.read_bytes().split(b"\n"):
        try:
            content = json.loads(line.decode("utf-8"))
        except ValueError:
            continue
        if isinstance(content, dict) and set(keys) <= set(content):
            yield content


def end_last_line(file: Path) -> None:
    """End a line that was cut off, so that the next one does not run into it."""
    if file.is_file() and file.stat().st_size and not file.read_bytes().endswith(b"\n"):
        with named(file), file.open("a", encoding="utf-8") as handle:
            handle.write("\n")
