"""Values of a YAML file: each as what it is to be, or ValueError with its key and what would be accepted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dycoke.text.brief import brief, shorten


def check_keys(content: Any, known: Iterable[str], needed: Iterable[str]) -> None:
    """Raise ValueError unless content is a mapping with known keys only, the needed ones among them."""
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a mapping with the keys {', '.join(needed)}")
    unknown = [shorten(str(key)) for key in content if key not in known]
    if unknown:
        raise ValueError(f"unknown key {', '.join(unknown)}; accepts: {', '.join(known)}")
    missing = [key for key in needed if content.get(key) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")


def listed(value: Any) -> list[Any]:
    """A list as it is, anything else as a list of one."""
    return list(value) if isinstance(value, list) else [value]


def list_of(content: Mapping[str, Any], key: str) -> list[Any]:
    """A list with something in it."""
    if not isinstance(content[key], list) or not content[key]:
        raise ValueError(f"{key}={brief(content[key])}: expected a list")
    return content[key]


def text_of(value: Any, key: str) -> str:
    """A text with something in it."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key}: {brief(value)}: expected a text")
    return value


def count_of(content: Mapping[str, Any], key: str, default: int | None, lowest: int = 1) -> int | None:
    """An integer of at least `lowest`, or the default."""
    value = content.get(key, default)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < lowest):
        raise ValueError(f"{key}={brief(value)}: expected an integer of at least {lowest}")
    return value


def flag_of(content: Mapping[str, Any], key: str, default: bool) -> bool:
    """True or false."""
    if not isinstance(content.get(key, default), bool):
        raise ValueError(f"{key}={brief(content[key])}: expected true or false")
    return content.get(key, default)


def mapping_of(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping, empty where the key is missing."""
    value = content.get(key) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}={brief(value)}: expected a mapping")
    return value
