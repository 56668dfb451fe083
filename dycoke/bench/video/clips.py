"""Video files for `dycoke bench video`: frames that carry their own number, so that a reader can be checked."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_BITS, _CELL = 12, 32  # of a number, and pixels of a side of the cell that each of them has
_MINUTE = 60


@dataclass(frozen=True)
class Clip:
    """A video to read: its size, frames per second, seconds, and frames between key frames (x264's default is 250).

    copies: how often the packets of these seconds follow each other in the file.
    """

    name: str
    width: int
    height: int
    rate: int = 30
    seconds: int = 10
    keys: int = 250
    copies: int = 1

    @property
    def frames(self) -> int:
        """All frames of the file."""
        return self.rate * self.seconds * self.copies

    def number(self, place: int) -> int:
        """The number that the frame at this place carries."""
        return place % (self.rate * self.seconds)

    def write(self, folder: Path) -> Path:
        """Encode with libx264 and B-frames, and copy the packets as often as asked."""
        path = folder / f"{self.name}.mp4"
        once = path if self.copies == 1 else folder / f"{self.name}_once.mp4"
        with av.open(str(once), "w") as container:
            stream = container.add_stream("libx264", rate=self.rate)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
            stream.options = {"preset": "veryfast", "crf": "26", "g": str(self.keys)}
            ground = _ground(self.width, self.height)
            for number in range(self.rate * self.seconds):
                image = _drawn(ground, number)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        if self.copies > 1:
            self._copy(once, path)
            once.unlink()
        return path

    def _copy(self, once: Path, path: Path) -> None:
        with av.open(str(path), "w") as container:
            copy = None
            for turn in range(self.copies):
                with av.open(str(once)) as source:
                    stream = source.streams.video[0]
                    copy = copy or container.add_stream_from_template(stream)
                    shift = int(Fraction(turn * self.seconds) / stream.time_base)
                    for packet in source.demux(stream):
                        if packet.dts is not None:
                            packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                            container.mux(packet)


CLIPS = {
    clip.name: clip
    for clip in (
        Clip("720p", 1280, 720),
        Clip("1080p", 1920, 1080),
        Clip("4k", 3840, 2160),
        Clip("two_hours", 1280, 720, rate=24, seconds=_MINUTE, copies=2 * 60),
        Clip("tiny", 384, 96, rate=8, seconds=4, keys=8),
    )
}


def number_of(frame: np.ndarray, scale: float = 1.0) -> int:
    """The number that a frame carries, which may have been scaled down."""
    number, cell = 0, _CELL * scale
    for bit in range(_BITS):
        top, left = int(cell / 4), int(cell * bit + cell / 4)
        number |= int(frame[top : top + max(int(cell / 2), 1), left : left + max(int(cell / 2), 1)].mean() > 125) << bit
    return number


def _ground(width: int, height: int) -> np.ndarray:
    """Soft shapes and some grain, wide enough to move: a plain picture would be decoded faster than any film."""
    chance = np.random.default_rng(0)
    down, across = np.mgrid[0:height, 0 : 2 * width]
    soft = 110 + 60 * np.sin(across / 37) * np.cos(down / 23)
    grain = chance.normal(0, 6, (height, 2 * width))
    return np.stack([soft + grain, 0.8 * soft + grain, 180 - 0.5 * soft + grain], axis=2).clip(0, 255).astype(np.uint8)


def _drawn(ground: np.ndarray, number: int) -> np.ndarray:
    height, width = ground.shape[0], ground.shape[1] // 2
    left = 4 * number % width
    image = np.ascontiguousarray(ground[:, left : left + width])
    for bit in range(_BITS):
        image[:_CELL, _CELL * bit : _CELL * (bit + 1)] = 235 if number >> bit & 1 else 16
    return image.reshape(height, width, 3)
