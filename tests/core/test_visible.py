"""What would steer a terminal comes out as text."""

from __future__ import annotations

import pytest

from dycoke.text.visible import visible, visible_line

STEERING = [*range(9), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A)]


@pytest.mark.parametrize("code", [*STEERING, 0xFFF9, 0xD800, 0xDC80, 0xDFFF], ids=hex)
def test_each_is_written_out(code):
    shown = visible(f"a{chr(code)}b")
    assert shown == (f"a\\x{code:02x}b" if code < 0x100 else f"a\\u{code:04x}b")
    assert shown.isascii() and shown.isprintable()


def test_texts_stay():
    text = "Grüße, 你好, \N{GRINNING FACE} שלום\n\tnext [/b] [bold]x"
    assert visible(text) == text
    assert visible_line(" a\n\tb\r\nc\x1b") == r"a b c\x1b"


def test_pieces_are_shown_as_the_whole_is():
    text = "\x1b]0;title\x07 and \x9b31m red \x1b[0m"
    for cut in range(len(text)):
        assert visible(text[:cut]) + visible(text[cut:]) == visible(text)
