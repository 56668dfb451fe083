"""YAML read in bounded time and memory, whoever wrote it: plain values only, or a ValueError of one line."""

from __future__ import annotations

import math
import os
import re
import stat
from pathlib import Path
from typing import Any, ClassVar

import yaml

from dycoke.text.brief import shorten

LONGEST = 200_000  # characters of a text
_BYTES = 4 * LONGEST  # of a file
_NODES = 10_000  # values of a text, those that an alias or a merge stands for counted wherever it does
_DEPTH = 50
_DIGITS = 100  # characters of an integer
_CHARACTERS = 5 * LONGEST  # of all texts, counted as the values are

_TAG = "tag:yaml.org,2002:"
# PyYAML fails in as many ways over numbers, characters and tags that are written wrongly.
_FAILURES = (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError)
_MERGE = _TAG + "merge"
# What PyYAML takes for a value of its own kind though people mean a text: yes and off, 2026-01-31, a lone =.
_NOT_OURS = tuple(_TAG + name for name in ("bool", "timestamp", "value"))


class _Loader(yaml.SafeLoader):
    """YAML as people write it, where PyYAML's 1.1 is a trap: off, on, yes, no and dates are texts, 1e-9 is a number.

    A key that stands twice in a mapping is an error, and so is one that is not a text.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NOT_OURS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._composed = self._built = self._characters = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        self._composed += 1
        self._depth += 1
        self._check(self._composed, self._depth)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def value(self, node: yaml.Node, depth: int = 1) -> Any:
        """Value of a node, built anew wherever an alias names it. Raises ValueError beyond the bounds."""
        self._built += 1
        self._check(self._built, depth)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(each, depth + 1) for each in node.value]
        read = _SCALARS.get(node.tag) if isinstance(node, yaml.ScalarNode) else None
        if read is None:
            raise ValueError(f"could not determine a constructor for the tag {shorten(repr(node.tag))}{_place(node)}")
        self._characters += len(node.value)
        if self._characters > _CHARACTERS:
            raise ValueError(f"aliases stand for more than {_CHARACTERS} characters")
        try:
            return read(self, node)
        except _FAILURES as error:
            kind = node.tag.removeprefix(_TAG)
            raise ValueError(f"{shorten(repr(node.value))}: not an accepted {kind}{_place(node)}") from error

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        merged, own = {}, {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged = self._merged(value_node, depth + 1) | merged
                continue
            key = self.value(key_node, depth + 1)
            if not isinstance(key, str):
                raise ValueError(f"key {shorten(repr(key))}: expected a text{_place(key_node)}")
            if key in own:
                raise ValueError(f"{shorten(repr(key))} is given twice{_place(key_node)}")
            own[key] = self.value(value_node, depth + 1)
        return merged | own

    def _merged(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        """Entries that `<<` brings in, of a mapping or of several, the first of which wins."""
        value = self.value(node, depth)
        several = value if isinstance(value, list) else [value]
        if not all(isinstance(each, dict) for each in several):
            raise ValueError(f"<<: expected a mapping, or a list of mappings{_place(node)}")
        return {key: each[key] for each in reversed(several) for key in each}

    def _check(self, nodes: int, depth: int) -> None:
        if nodes > _NODES:
            raise ValueError(f"more than {_NODES} values")
        if depth > _DEPTH:
            raise ValueError(f"nested more than {_DEPTH} deep")


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    """The text; two halves of a character, as JSON writes what is beyond 16 bits, are made whole."""
    return node.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > _DIGITS:
        raise ValueError
    return loader.construct_yaml_int(node)


def _finite(loader: _Loader, node: yaml.ScalarNode) -> float:
    value = loader.construct_yaml_float(node)
    if not math.isfinite(value):
        raise ValueError
    return value


_SCALARS = {
    _TAG + "str": _text,
    _TAG + "int": _integer,
    _TAG + "float": _finite,
    _TAG + "bool": _Loader.construct_yaml_bool,
    _TAG + "null": _Loader.construct_yaml_null,
}


class _Dumper(yaml.SafeDumper):
    """Quotes what either loader, ours or PyYAML's, would not read as a text."""


_EXPONENT = _TAG + "float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
_Dumper.add_implicit_resolver(*_EXPONENT)
_Loader.add_implicit_resolver(*_EXPONENT)
_Loader.add_implicit_resolver(_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def parse_yaml(text: str) -> Any:
    """Value of a text in YAML: 0.7 is a number, true a bool, paper, off and 2026-01-31 texts.

    Raises ValueError of one line for what is not YAML, and for values other than texts, finite numbers, bools, null,
    lists and mappings of texts; also for texts of more than LONGEST characters, and where they, their aliases counted
    as often as they stand, hold more than 10,000 values or are nested more than 50 deep.
    """
    try:
        if len(text) > LONGEST:
            raise ValueError(f"{len(text)} characters; expected at most {LONGEST}")
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.value(node)
    except _FAILURES as error:
        raise ValueError(f"not a value in YAML: {shorten(' '.join(str(error).split()), 400)}") from error


def read_yaml(path: str | Path) -> Any:
    """Value of a YAML file, as `parse_yaml` reads it. Raises as `read_text` does too."""
    return parse_yaml(read_text(path))


def read_text(path: str | Path) -> str:
    """A file in UTF-8, if it is small enough to be settings.

    Raises OSError if it cannot be read, ValueError (UnicodeDecodeError among them) for a file that is not text or too
    large, and for what is neither a file nor a folder (a device, a pipe), which is not waited for.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("a device or a pipe; expected a file")
        content = file.read(_BYTES + 1)
    if len(content) > _BYTES:
        raise ValueError(f"more than {_BYTES} bytes; expected a text of at most {LONGEST} characters")
    return content.decode("utf-8-sig")


def write_yaml(content: Any) -> str:
    """The text that `parse_yaml` reads as these plain values, keys in their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _place(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"
