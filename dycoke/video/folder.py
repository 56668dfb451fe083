"""A folder of a video's frames, as some tasks come with them (MVBench)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from dycoke.video.canvas import MOST_BYTES
from dycoke.video.picture import as_frame, open_picture
from dycoke.video.timeline import Choose, Timeline

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def read_folder(path: str | Path, choose: Choose, most_bytes: int = MOST_BYTES) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 that `choose` takes of a folder's pictures, in the order of the numbers in their names.

    They count as if all were shown for the same time. lmms-eval's llava_onevision answers without looking at such a
    folder, and its llava_vid takes the frames in whatever order the folder lists them.
    Raises ValueError if there are no pictures, for one that cannot be read, and for pictures of several sizes.
    """
    files = sorted((file for file in Path(path).iterdir() if _is_frame(file)), key=_number)
    if not files:
        raise ValueError(f"{path}: no frames in this folder; expected a video file, or files {', '.join(SUFFIXES)}")
    places = choose(Timeline(len(files), range(len(files)))).tolist()
    read: dict[int, np.ndarray] = {}
    for place in sorted(set(places)):
        with open_picture(files[place]) as image:
            read[place] = as_frame(image, len(places), most_bytes)
    sizes = sorted({frame.shape[1::-1] for frame in read.values()})
    if len(sizes) > 1:
        raise ValueError(
            f"{path}: frames of several sizes: {', '.join(f'{width}x{height}' for width, height in sizes)}"
        )
    return np.stack([read[place] for place in places])


def _is_frame(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def _number(file: Path) -> list[int | str]:
    """Sort key of a picture's name by its numbers: 2.jpg stands before 10.jpg."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]
