"""A picture as a video: one frame, or those of an animation that only Pillow reads (WebP, pages of TIFF)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from dycoke.video.canvas import MOST_BYTES, shrunk
from dycoke.video.timeline import Choose, Timeline

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
_FFMPEG_ANIMATES = ("PNG", "AVIF")


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, or an animation that FFmpeg does not read. Only its header is looked at."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:  # of its size: see `open_picture`
            found, animated = image.format, getattr(image, "n_frames", 1) > 1
    except Image.DecompressionBombError:
        return True
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError):
        return False
    if found not in _FORMATS or (animated and found in _FFMPEG_ANIMATES):
        return False
    return found != "JPEG" or not _is_motion_jpeg(path)


def _is_motion_jpeg(path: Path) -> bool:
    """Whether pictures follow each other in the file, as cameras write them."""
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            return container.format.name == "mjpeg"
    except (av.error.FFmpegError, OSError, ValueError):
        return False


def read_picture(path: Path, choose: Choose, most_bytes: int = MOST_BYTES) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 that `choose` takes of a picture. Raises ValueError if it cannot be read."""
    with open_picture(path) as image:
        count = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
        places = choose(Timeline(count, _times(image, count), None if count == 1 else count))
        frames: dict[int, np.ndarray] = {}
        for place in sorted(set(places.tolist())):
            if count > 1:
                image.seek(place)
            frames[place] = as_frame(image, len(places), most_bytes)
    sizes = {frame.shape for frame in frames.values()}
    if len(sizes) > 1:
        raise ValueError(f"{path}: pages of several sizes; accepted: pictures of one size")
    return np.stack([frames[place] for place in places.tolist()])


def _times(image: Image.Image, count: int) -> list[float]:
    """Seconds at which each frame of an animation begins; one per second where it does not say."""
    lengths = []
    for place in range(count - 1):
        image.seek(place)
        image.load()  # some formats tell with the frame itself
        lengths.append((image.info.get("duration") or 1000) / 1000)
    return [0.0, *accumulate(lengths)]


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """A picture that Pillow has opened. Raises ValueError, then and within the context, if it cannot be read."""
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # some tasks of lmms-eval set it
    try:
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(path) as image,
        ):
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path}: {error}; accepted: pictures of at most {Image.MAX_IMAGE_PIXELS} pixels") from error
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path}: not a picture that can be read ({error})") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def as_frame(image: Image.Image, count: int, most_bytes: int = MOST_BYTES) -> np.ndarray:
    """A picture as a frame [H, W, 3] uint8, upright, so small that `count` of them fit in so many bytes."""
    upright = ImageOps.exif_transpose(image).convert("RGB")
    height, width = shrunk(count, upright.height, upright.width, most_bytes)
    if (width, height) != upright.size:
        upright = upright.resize((width, height), Image.Resampling.BOX)
    return np.asarray(upright)
