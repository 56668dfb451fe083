"""Frames of a video file, a folder of pictures or a picture; everything else is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dycoke.video.canvas import MOST_BYTES
from dycoke.video.container import is_cut
from dycoke.video.decode import decode, opened
from dycoke.video.folder import read_folder
from dycoke.video.picture import is_picture, read_picture
from dycoke.video.readers import read_with_decord, read_with_torchcodec
from dycoke.video.reading import DECORD, INDEX, PYAV, check_path, check_reader
from dycoke.video.timeline import Choose, evenly

PILLOW = "pillow"


def read_frames(
    path: str | Path, count: int, *, reader: str = PYAV, sampling: str = INDEX, most_bytes: int = MOST_BYTES
) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 of a video at `count` even places, the first and the last one among them, upright.

    path: a video file, a folder of pictures (its frames, in the order of the numbers in their names) or a picture (a
    video of one frame). Frames are those that the ffmpeg command shows, in their order; `sampling` is by "index",
    np.linspace(0, N - 1, count) cut to integers, or by "time" (see `evenly`). A video of fewer frames gives some of
    them more than once. Where all would take more than `most_bytes`, each is scaled down as it is decoded.
    reader: "pyav", or "decord" or "torchcodec" for their own way to find frames (see `dycoke.video.readers`).
    Raises FileNotFoundError for a missing file, ValueError for a count below 1, an unknown reader or sampling, a URL,
    and a file that is empty, truncated (where its format says how long it is: mp4, Matroska, WebM, AVI), damaged or
    not a video.
    """
    return read_chosen(path, evenly(count, sampling), reader=reader, most_bytes=most_bytes)


def read_chosen(path: str | Path, choose: Choose, *, reader: str = PYAV, most_bytes: int = MOST_BYTES) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 that `choose` takes of those a video shows; all else as `read_frames`."""
    check_reader(reader)
    check_path(path)
    path = Path(path)
    if path.is_dir():
        return read_folder(path, choose, most_bytes)
    if is_picture(path):
        return read_picture(path, choose, most_bytes)
    check_whole(path)
    if reader == PYAV:
        return decode(path, choose, most_bytes)
    return (read_with_decord if reader == DECORD else read_with_torchcodec)(path, choose, most_bytes)


def reader_of(path: str | Path, reader: str = PYAV) -> str:
    """Reader that `read_frames` uses for `path`: the one asked for, or "pillow" where its frames are pictures."""
    return PILLOW if Path(path).is_dir() or is_picture(Path(path)) else reader


def check_video(path: str | Path) -> None:
    """Raise FileNotFoundError or ValueError unless `path` is a whole video, as far as its headers tell."""
    check_path(path)
    path = Path(path)
    if path.is_dir() or is_picture(path):
        return
    check_whole(path)
    with opened(path):
        pass


def check_whole(path: Path) -> None:
    """Raise ValueError for a file that ends before its own headers say it does: the frames left are not the video."""
    if is_cut(path):
        raise ValueError(f"{path}: truncated video file")
