"""Videos as tasks come with them: a file, or a folder of its frames, as some of MVBench are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dycoke.ask.video import check_count, read_frames

SUFFIXES = (".jpg", ".jpeg", ".png")


def read_shown(path: str | Path, count: int) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 of a video file or of a folder, at `count` even places.

    Raises what `read_frames` and `read_folder` raise.
    """
    return read_folder(path, count) if Path(path).is_dir() else read_frames(path, count)


def read_folder(path: str | Path, count: int) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 of a folder's pictures, in the order of the numbers in their names.

    They are taken at the places at which `read_frames` takes those of a video. lmms-eval's llava_onevision answers
    without looking at such a folder, and its llava_vid takes the frames in whatever order the folder lists them.
    Raises ValueError for a count below 1, if there are no pictures, for one that cannot be read, and for pictures of
    several sizes.
    """
    check_count(count)
    files = sorted((file for file in Path(path).iterdir() if file.suffix.lower() in SUFFIXES), key=_number)
    if not files:
        raise ValueError(f"{path}: no frames in this folder; expected files {', '.join(SUFFIXES)}")
    frames = [_read(files[place]) for place in np.linspace(0, len(files) - 1, count, dtype=int)]
    sizes = sorted({frame.shape[1::-1] for frame in frames})
    if len(sizes) > 1:
        raise ValueError(
            f"{path}: frames of several sizes: {', '.join(f'{width}x{height}' for width, height in sizes)}"
        )
    return np.stack(frames)


def _number(file: Path) -> list[int | str]:
    """2.jpg stands before 10.jpg."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]


def _read(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file}: no picture that can be read") from error
