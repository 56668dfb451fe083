"""Options of methods as text: "name=value" pairs, values in YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def parse_value(text: str) -> Any:
    """The value a text stands for in YAML: 0.7 a number, true a bool, paper and off a string. Raises ValueError."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is no value in YAML: {error}") from error
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)  # 1e-9 is a number to everybody but YAML 1.1
    if isinstance(value, bool) and text.strip().lower() not in ("true", "false"):
        return text.strip()  # off, on, yes and no are truth values to YAML 1.1 alone
    return value


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Options from texts "name=value". Raises ValueError for another form or a name given twice."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not (name and equals):
            raise ValueError(f"option {pair!r}: expected name=value")
        if name in options:
            raise ValueError(f"option {name!r} is given twice: {options[name]!r} and {value!r}")
        options[name] = parse_value(value)
    return options


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options from "name,option=value,option=value". Raises ValueError as `parse_options` does."""
    name, *pairs = text.split(",")
    return name.strip(), parse_options(pairs)
