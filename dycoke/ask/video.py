"""Frames of a video file, and a clear refusal of files that are no whole video."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import decord
import numpy as np
from decord._ffi.base import DECORDError

from dycoke.ask.container import is_cut


def read_frames(path: str | Path, count: int) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 of a video at `count` even places, the first and the last one among them.

    The places are np.linspace(0, n - 1, count) cut to integers, as lmms-eval's llava_onevision adapter has it: a
    video of fewer than `count` frames gives some of them more than once.
    Raises FileNotFoundError for a missing file, ValueError for a count below 1, a folder, a URL, and a file that is
    empty, truncated (where its format says how long it is: mp4, Matroska, WebM, AVI), damaged or no video.
    """
    check_count(count)
    check_video(path)
    with decoding(path):
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        total = len(reader)
        places = np.linspace(0, max(total - 1, 0), count, dtype=int)
        frames = reader.get_batch(places).asnumpy() if total else None
    if frames is None:
        raise ValueError(f"{path}: no frames in this video")
    return frames


def check_count(count: int) -> None:
    """Raise ValueError unless so many frames can be asked for."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"frames={count!r}: expected an integer of at least 1")


def check_video(path: str | Path) -> None:
    """Raise FileNotFoundError or ValueError unless `path` is a whole video file, as far as its headers tell."""
    if not str(path) or "://" in str(path):
        raise ValueError(
            f"{str(path)!r}: expected the path of a video file; a video of the web has to be fetched first"
        )
    path = Path(path)
    _check_file(path)
    _check_container(path)


@contextmanager
def decoding(path: str | Path) -> Iterator[None]:
    """Raise ValueError of one line where decord cannot decode a video; its own messages are stack traces of C++."""
    try:
        with _quiet():
            yield
    except (DECORDError, RuntimeError) as error:
        raise ValueError(
            f"{path}: cannot be decoded; the file is damaged, truncated, without an index, or of an unknown codec"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Send what native code writes to stderr nowhere: decord does so even at its quietest level."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path}: a folder; expected a video file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")


def _check_container(path: Path) -> None:
    """Raise ValueError unless the file is a container with a video in it, and whole where its format can tell."""
    if is_cut(path):
        # decord may hand back fewer, repeated or half-empty frames of such a file without a word.
        raise ValueError(f"{path}: truncated video file")
    try:
        with av.open(str(path)) as container:
            family, videos = container.format.name, len(container.streams.video)
            claimed = container.streams.video[0].frames if videos else 0
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: no video file ({error.strerror})") from error
    if not videos:
        raise ValueError(f"{path}: no video in this {family} file")
    if claimed > path.stat().st_size:  # decord allocates for that many, and the process dies
        raise ValueError(f"{path}: its header claims {claimed} frames, more than its bytes; it was streamed or damaged")
