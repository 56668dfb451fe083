"""Values shortened for messages, whatever they are."""

from __future__ import annotations

from reprlib import Repr
from typing import Any

LINE = 2000  # characters of a message
_LENGTH = 120
_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = _LENGTH
_repr.maxlist = _repr.maxdict = _repr.maxtuple = _repr.maxset = 8
_repr.maxlevel = 4


def brief(value: Any) -> str:
    """The repr of a value, cut in its middle, and found without writing out the rest."""
    return shorten(_repr.repr(value), 2 * _LENGTH)


def shorten(text: str, length: int = _LENGTH) -> str:
    """The text, or its two ends where it is longer."""
    half = (length - 5) // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"
