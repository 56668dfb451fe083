"""Decoded frames as RGB: upright, of one size, no larger than memory allows, converted by all cores."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

MOST_BYTES = 800_000_000  # of all frames of a video together: 32 of 3840 x 2160, 128 of 1920 x 1080
_MOST_WORKERS = 8
_SIZE = struct.Struct("<9i")  # a display matrix: rows of three, fixed point


class Askew(ValueError):
    """Error for a video that is to be shown turned by anything but quarters."""


class Turn(NamedTuple):
    """Rotation and mirroring that turn stored pixels upright: rows and columns swapped, then mirrored."""

    transposed: bool = False
    mirrored: bool = False  # left and right change sides
    upended: bool = False  # top and bottom do

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Turn:
        """Turn that the display matrix of a frame asks for, as the ffmpeg command reads it.

        Raises Askew for one that turns by anything but quarters.
        """
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None or len(bytes(matrix)) != _SIZE.size:
            return cls()
        a, b, _, c, d, *_ = _SIZE.unpack(bytes(matrix))  # a pixel at (x, y) is shown at (a x + c y, b x + d y)
        if b == c == 0 and a and d:
            return cls(False, a < 0, d < 0)
        if a == d == 0 and b and c:
            return cls(True, c < 0, b < 0)
        if a == b == c == d == 0:  # says nothing
            return cls()
        raise Askew(
            f"the video is to be shown turned by {frame.rotation} degrees; accepted: multiples of 90, or frames turned "
            "beforehand"
        )

    def laid(self, image: np.ndarray) -> np.ndarray:
        """A view of an image [H, W, 3] that stands upright."""
        image = image.transpose(1, 0, 2) if self.transposed else image
        return image[:: -1 if self.upended else 1, :: -1 if self.mirrored else 1]


def shrunk(count: int, height: int, width: int, most_bytes: int) -> tuple[int, int]:
    """The largest height and width of this shape at which `count` RGB frames fit in so many bytes."""
    needed = 3 * count * height * width
    if needed <= most_bytes:
        return height, width
    scale = (most_bytes / needed) ** 0.5
    return max(int(height * scale), 1), max(int(width * scale), 1)


class Canvas:
    """Frames [T, H, W, 3] uint8 of one video, filled in any order.

    The first frame put there gives the size, upright; frames of another size are scaled to it, as the ffmpeg command
    does. Where all would take more than `most_bytes`, each is scaled down as it comes. Close it in any case.
    """

    def __init__(self, count: int, most_bytes: int = MOST_BYTES, workers: int = 1) -> None:
        self._count, self._most_bytes = count, most_bytes
        self._frames: np.ndarray | None = None
        self._local = threading.local()
        workers = max(1, min(workers, _MOST_WORKERS))
        self._pool = ThreadPoolExecutor(workers)
        self._waiting = threading.BoundedSemaphore(2 * workers)  # frames that wait hold memory
        self._done: list[Future[None]] = []

    def put(self, frame: av.VideoFrame, numbers: Sequence[int]) -> None:
        """Take a decoded frame as these ones of the video's. Raises what `Turn.of` does."""
        turn = Turn.of(frame)
        if self._frames is None:
            size = (frame.width, frame.height) if turn.transposed else (frame.height, frame.width)
            self._frames = np.empty((self._count, *shrunk(self._count, *size, self._most_bytes), 3), np.uint8)
        self._waiting.acquire()
        try:
            self._done.append(self._pool.submit(self._convert, frame, turn, list(numbers)))
        except BaseException:
            self._waiting.release()
            raise

    def _convert(self, frame: av.VideoFrame, turn: Turn, numbers: list[int]) -> None:
        try:
            first, *others = numbers
            height, width = self._frames.shape[1:3]
            width, height = (height, width) if turn.transposed else (width, height)
            if not hasattr(self._local, "reformatter"):
                self._local.reformatter = VideoReformatter()
            same = (frame.width, frame.height) == (width, height)
            rgb = self._local.reformatter.reformat(
                frame, width, height, "rgb24", interpolation=Interpolation.BICUBIC if same else Interpolation.AREA
            )
            plane = rgb.planes[0]
            image = np.ndarray((height, width, 3), np.uint8, plane, strides=(plane.line_size, 3, 1))
            self._frames[first] = turn.laid(image)
            for other in others:
                self._frames[other] = self._frames[first]
        finally:
            self._waiting.release()

    def frames(self) -> np.ndarray:
        """All frames, once every one of them is there. Raises what went wrong in converting one."""
        for each in self._done:
            each.result()
        return self._frames

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
