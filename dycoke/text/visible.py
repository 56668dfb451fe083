"""Texts of others made safe for a terminal or a table: control characters and the unwritable are spelled out."""

from __future__ import annotations

import re

# Controls but newline and tab (C0, DEL, C1: ESC, BEL, CR and the eight-bit CSI among them), what turns the direction of
# the text around it, and halves of characters, which no encoding writes.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with \x1b, \u202e and the like written out; newlines and tabs stay.

    Each character is seen to by itself, so that a text may come in pieces, cut anywhere.
    """
    return _STEERING.sub(_written_out, text)


def visible_line(text: str) -> str:
    """The text on one line, every run of white space a space, as `visible` has it."""
    return visible(" ".join(text.split()))


def _written_out(found: re.Match) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
