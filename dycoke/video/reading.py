"""Checks of how a video is to be read (path, reader, sampling, count) that need no decoder."""

from __future__ import annotations

import stat
from importlib import import_module
from pathlib import Path
from typing import Any

PYAV, DECORD, TORCHCODEC = "pyav", "decord", "torchcodec"
READERS = (PYAV, DECORD, TORCHCODEC)
INDEX, TIME = "index", "time"
SAMPLINGS = (INDEX, TIME)
_PACKAGES = {DECORD: "decord", TORCHCODEC: "torchcodec.decoders"}


def check_reader(reader: str) -> None:
    """Raise ValueError for an unknown reader, or one whose package is not installed or does not load."""
    if reader not in READERS:
        raise ValueError(f"reader={reader!r}: expected one of {', '.join(READERS)}")
    if reader in _PACKAGES:
        package_of(reader)


def package_of(reader: str) -> Any:
    """The package of decord or torchcodec. Raises ValueError if it cannot be imported."""
    try:
        return import_module(_PACKAGES[reader])
    except (ImportError, OSError, RuntimeError) as error:
        why = str(error).strip().splitlines()
        raise ValueError(
            f"reader={reader!r}: its package cannot be loaded ({why[0] if why else type(error).__name__}); install the "
            f"extra {reader}, or take reader={PYAV!r}"
        ) from error


def check_count(count: int) -> None:
    """Raise ValueError unless so many frames can be asked for."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"frames={count!r}: expected an integer of at least 1")


def check_sampling(sampling: str) -> None:
    """Raise ValueError for an unknown sampling."""
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling={sampling!r}: expected one of {', '.join(SAMPLINGS)}")


def check_path(path: str | Path) -> None:
    """Raise FileNotFoundError or ValueError unless there is a file with something in it, or a folder."""
    if not str(path) or "://" in str(path) or "\0" in str(path):
        raise ValueError(
            f"{str(path)!r}: expected the path of a video file; a video on the web has to be downloaded first"
        )
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        return
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe may never end, and cannot be read twice
        raise ValueError(f"{path}: not a regular file; expected a video that is stored as a whole")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
