"""Options of methods as text: "name=value" pairs, values in YAML, and the YAML that is read here."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import yaml

_BOOL = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """YAML as people write it, where PyYAML's 1.1 is a trap: off, on, yes and no are texts, and 1e-9 is a number.

    A key that stands twice in a mapping is an error.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """What a text says in YAML: 0.7 a number, true a bool, paper and off texts. Raises ValueError of one line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"no value in YAML: {' '.join(str(error).split())}") from error


def parse_value(text: str) -> Any:
    """The value of an option. Raises ValueError naming the text."""
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is {error}") from error


def write_value(value: Any) -> str:
    """The text that `parse_value` reads as this value; a tuple is written as a list."""
    if isinstance(value, str) and value and parse_value(value) == value:
        return value
    return json.dumps(value)  # what JSON writes, YAML reads


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
    """Name and options from "name,option=value,layers=[8,16]". Raises ValueError as `parse_options` does."""
    name, *pairs = _split(text)
    return name.strip(), parse_options(pairs)


def _split(text: str) -> list[str]:
    """What stands between the commas that are in no brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "[{") - (char in "]}")
        if char == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts
