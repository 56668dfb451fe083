"""Whether a video file ends before its container says it does. Only headers are read."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_HEADER = 8  # bytes of a box or chunk header: size and type
_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide")  # what an mp4 file starts with
_MORE_BOXES = (*_BOXES, b"sidx", b"mfra", b"meta", b"uuid", b"udta", b"emsg", b"pnot", b"prft", b"ssix")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_RIFF = b"RIFF"
_STREAMED = (0, 0xFFFFFFFF)  # sizes a writer leaves that could not go back and fill them in


def is_cut(path: Path) -> bool:
    """True if a file of the mp4, Matroska (WebM) or RIFF (AVI) family is shorter than its own headers say.

    False for other families, where a stream was written without knowing its length, and for an AVI that lacks whole
    parts at its end.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_HEADER)
        if start[4:] in _BOXES:
            return _boxes_end(file, length) > length
        if start[:4] == _EBML:
            return _segment_end(file, length) > length
        if start[:4] == _RIFF:
            return _parts_end(file, length) > length
    return False


def _boxes_end(file: BinaryIO, length: int) -> int:
    """Where the boxes of an mp4 file's top level end."""
    at, seen = 0, set()
    while at < length:
        file.seek(at)
        header = file.read(_HEADER)
        kind = header[4:]
        whole = {b"moov", b"mdat"} <= seen
        if whole and len(header) < _HEADER and b"moof" in seen:
            return length + 1  # a fragmented file goes on with boxes, so this is the start of one
        if whole and kind not in _MORE_BOXES:
            return at  # bytes that somebody appended to a whole file
        size = _box_size(file, at, length)
        if size is None:
            return at
        seen.add(kind)
        at += size
    return at


def _parts_end(file: BinaryIO, length: int) -> int:
    """Where the RIFF parts of an AVI file end; a long one has several."""
    at = 0
    while at < length:
        file.seek(at)
        header = file.read(_HEADER)
        if header[:4] != _RIFF:
            return at  # bytes that somebody appended
        size = int.from_bytes(header[4:], "little")
        if len(header) < _HEADER:
            return length + 1
        if size in _STREAMED:
            return length
        at += _HEADER + size + size % 2
    return at


def _box_size(file: BinaryIO, at: int, end: int) -> int | None:
    """Bytes of the box that starts at `at`, None if no box does. Source: ISO/IEC 14496-12, section 4.2."""
    file.seek(at)
    header = file.read(2 * _HEADER)
    if len(header) < _HEADER:
        return _HEADER  # cut within a header
    size, kind = int.from_bytes(header[:4], "big"), header[4:_HEADER]
    if not (kind.isascii() and kind.decode("ascii").isprintable()):
        return None
    if size == 1:  # the size did not fit, and follows the type in 8 bytes
        size = int.from_bytes(header[_HEADER:], "big")
        return size if size >= 2 * _HEADER else None
    if size == 0:  # "to the end of the file"
        return end - at
    return size if size >= _HEADER else None


def _segment_end(file: BinaryIO, length: int) -> int:
    """Where the segment of a Matroska file, which holds all of it but a header, ends. Source: RFC 8794 and RFC 9559."""
    file.seek(len(_EBML))
    header = _element_size(file)
    if header is None:
        return length
    file.seek(header, 1)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return length + 1 if file.tell() >= length else length  # cut within the header, or another layout
    size = _element_size(file)
    return length if size is None else file.tell() + size


def _element_size(file: BinaryIO) -> int | None:
    """The size of an EBML element: as many bytes as its first byte has leading zeros, and one. None if unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    rest = file.read(extra)
    if len(rest) < extra:
        return None
    value = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + rest, "big")
    return None if value == (1 << 7 * (extra + 1)) - 1 else value
