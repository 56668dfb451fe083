"""Frames of a video file, and a clear refusal of files that are no whole video."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import av
import decord
import numpy as np
from decord._ffi.base import DECORDError

_ISO_MEDIA = "mov,mp4"  # how FFmpeg calls the mp4 family of containers
_HEADER = 8  # bytes of a box header: size and type
_FIRST = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide")  # boxes such a file starts with


def read_frames(path: str | Path, count: int) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 of a video at `count` even places, the first and the last one among them.

    The places are np.linspace(0, n - 1, count) cut to integers, as lmms-eval's llava_onevision adapter has it: a
    video of fewer than `count` frames gives some of them more than once.
    Raises FileNotFoundError for a missing file, ValueError for a count below 1, a folder, and a file that is empty,
    truncated, damaged or no video.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"frames={count!r}: expected an integer of at least 1")
    path = Path(path)
    _check_file(path)
    _check_container(path)
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        total = len(reader)
        if total < 1:
            raise ValueError(f"{path}: no frames in this video")
        places = np.linspace(0, total - 1, count, dtype=int)
        return reader.get_batch(places).asnumpy()
    except (DECORDError, RuntimeError) as error:
        # decord's own messages are stack traces of C++.
        raise ValueError(f"{path}: cannot be decoded; the file is damaged, truncated or of an unknown codec") from error


def _check_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path}: a folder; expected a video file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")


def _check_container(path: Path) -> None:
    """Raise ValueError unless the file is a container with a video in it, and whole where its format can tell."""
    try:
        with av.open(str(path)) as container:
            family, videos = container.format.name, len(container.streams.video)
    except av.error.FFmpegError as error:
        if _is_cut(path):
            raise ValueError(f"{path}: truncated mp4 file") from error
        raise ValueError(f"{path}: no video file ({error.strerror})") from error
    if not videos:
        raise ValueError(f"{path}: no video in this {family} file")
    if family.startswith(_ISO_MEDIA) and _is_cut(path):
        # decord may hand back repeated or half-empty frames of such a file without a word.
        raise ValueError(f"{path}: truncated mp4 file")


def _is_cut(path: Path) -> bool:
    """Whether a box of an mp4 file's top level ends beyond the end of the file."""
    end = path.stat().st_size
    with path.open("rb") as file:
        if file.read(_HEADER)[4:] not in _FIRST:
            return False
        at = 0
        while at < end:
            size = _box_size(file, at, end)
            if size is None:
                return False  # no box: bytes that somebody appended
            at += size
    return at > end


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
