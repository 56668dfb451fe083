"""Options of methods as text: "name=value" pairs, with values in YAML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dycoke.text.bounded_yaml import parse_yaml
from dycoke.text.brief import brief

_LONGEST = 10_000  # characters of a method and its options


def parse_value(text: str) -> Any:
    """The value of an option. Raises ValueError naming the text."""
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{brief(text)} is {error}") from error


def write_value(value: Any) -> str:
    """The text that `parse_value` reads as this value; a tuple is written as a list."""
    return value if isinstance(value, str) and _is_plain(value) else json.dumps(value)  # which YAML reads


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Options from texts "name=value". Raises ValueError for another form or a name given twice."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not (name and equals):
            raise ValueError(f"option {brief(pair)}: expected name=value")
        if name in options:
            raise ValueError(f"option {brief(name)} is given twice: {brief(options[name])} and {brief(value)}")
        options[name] = parse_value(value)
    return options


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options from "name,option=value,layers=[8,16]". Raises ValueError as `parse_options` does."""
    if len(text) > _LONGEST:
        raise ValueError(f"{brief(text)}: {len(text)} characters; expected a method's name and its options")
    name, *pairs = _split(text)
    return name.strip(), parse_options(pairs)


def split_methods(text: str) -> list[str]:
    """The methods of "full,dycoke,k=0.5", each with its options: "full" and "dycoke,k=0.5"."""
    found: list[str] = []
    for part in _split(text):
        if found and "=" in part:
            found[-1] += f",{part}"
        else:
            found.append(part.strip())
    return found


def _is_plain(text: str) -> bool:
    """Whether YAML reads a text without quotes as itself."""
    try:
        return bool(text) and parse_yaml(text) == text
    except ValueError:
        return False


def _split(text: str) -> list[str]:
    """What stands between the commas that are in no brackets."""
    parts, start, depth = [], 0, 0
    for place, char in enumerate(text):
        depth += (char in "[{") - (char in "]}")
        if char == "," and depth <= 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]
