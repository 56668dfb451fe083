"""Videos of many kinds whose frames carry their own number, and the numbers in the order in which they are shown."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 160, 96
_COLUMNS, _ROWS, _BITS = 5, 3, 10  # the upper row of cells is for what an upright frame looks like


def drawn(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Frame [H, W, 3] uint8 of this number: ten cells, white for the bits that are set, below a band that moves."""
    frame = np.full((height, width, 3), 16, np.uint8)
    frame[: height // _ROWS, : width // 2] = (200, 40 + number % 100, 40)
    for bit in range(_BITS):
        row, column = divmod(bit, _COLUMNS)
        down, across = height // _ROWS, width // _COLUMNS
        cell = frame[down * (row + 1) : down * (row + 2), across * column : across * (column + 1)]
        cell[:] = 235 if number >> bit & 1 else 16
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that an upright frame carries."""
    grey, down, across = frame.astype(float).mean(2), frame.shape[0] // _ROWS, frame.shape[1] // _COLUMNS
    number = 0
    for bit in range(_BITS):
        row, column = divmod(bit, _COLUMNS)
        top, left = down * (row + 1) + down // 4, across * column + across // 4
        number |= int(grey[top : top + down // 2, left : left + across // 2].mean() > 125) << bit
    return number


def shown(path: Path) -> list[int]:
    """The numbers of all frames, decoded by one thread from the first packet on, in their order."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return [
            number_of(frame.to_ndarray(format="rgb24", width=WIDTH, height=HEIGHT))
            for frame in container.decode(stream)
        ]


@dataclass(frozen=True)
class Kind:
    """How a video is made: its file name, encoder and options, times of its frames, what is done to the file then."""

    name: str
    codec: str
    options: Mapping[str, str] = field(default_factory=dict)
    muxing: Mapping[str, str] = field(default_factory=dict)
    frames: int = 60
    pixels: str = "yuv420p"
    size: tuple[int, int] = (WIDTH, HEIGHT)
    times: Callable[[int], int] | None = None  # number of a frame -> its time in 25ths of a second
    then: Callable[[Path], None] | None = None
    quarter_turns: int = 0  # by which its frames are stored turned, clockwise

    @property
    def id(self) -> str:
        return self.name

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        with av.open(str(path), "w", options=dict(self.muxing), format=_FORMATS.get(path.suffix)) as container:
            self._encode(container, self.size, range(self.frames))
        if self.then is not None:
            self.then(path)
        return path

    def _encode(self, container: av.container.OutputContainer, size: tuple[int, int], numbers: Sequence[int]) -> None:
        stream = container.add_stream(self.codec, rate=25, options=dict(self.options))
        stream.width, stream.height = size if self.quarter_turns % 2 == 0 else size[::-1]
        stream.pix_fmt = self.pixels
        stream.codec_context.thread_count = 1
        if self.times is not None:
            stream.codec_context.time_base = Fraction(1, 25)
        for number in numbers:
            image = np.ascontiguousarray(np.rot90(drawn(number, *size), self.quarter_turns))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if self.times is not None:
                frame.pts, frame.time_base = self.times(number), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


_FORMATS = {".m2ts": "mpegts", ".vob": "vob", ".mpg": "mpeg", ".m4v": "m4v", ".obu": "obu", ".apng": "apng"}


def with_matrix(a: int, b: int, c: int, d: int) -> Callable[[Path], None]:
    """Write a display matrix into an mp4's track header. Source: ISO/IEC 14496-12, section 8.3.2."""

    def write(path: Path) -> None:
        content = bytearray(path.read_bytes())
        at = content.index(b"tkhd") + 44
        content[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
        path.write_bytes(content)

    return write


def _copied(first: float, last: float) -> Callable[[Path], None]:
    """Cut from `first` to `last` seconds by copying packets, from the key frame before on, as -ss -c copy does."""

    def cut(path: Path) -> None:
        whole = path.rename(path.with_name(f"whole{path.suffix}"))
        with av.open(str(whole)) as source, av.open(str(path), "w") as container:
            stream = source.streams.video[0]
            copy = container.add_stream_from_template(stream)
            begin = int(first / stream.time_base)
            source.seek(begin, stream=stream)
            for packet in source.demux(stream):
                if packet.dts is None or packet.pts * stream.time_base > last:
                    continue
                packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, copy
                container.mux(packet)

    return cut


def _cut(first: float, last: float) -> Callable[[Path], None]:
    """Keep these bytes, as shares of the file."""

    def cut(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[int(len(content) * first) : int(len(content) * last)])

    return cut


def _halved(path: Path) -> None:
    """A second part in half the size behind the first, as a broadcast changes its format."""
    small = Kind("small.ts", "libx264", {"g": "20"}, size=(WIDTH // 2, HEIGHT // 2)).write(path.parent)
    with path.open("ab") as file:
        file.write(small.read_bytes())


def _varying(number: int) -> int:
    return number + number * number // 20


X264, X265 = "libx264", "libx265"
_QUIET = {"x265-params": "log-level=0"}
_OPEN = {"g": "15", "x264-params": "open-gop=1:bframes=3"}
_X265_OPEN = {"x265-params": "log-level=0:keyint=15:min-keyint=15:open-gop=1:bframes=3"}

# Wheels of PyAV have one encoder or the other.
_AV1 = {"libaom-av1": {"g": "20", "cpu-used": "8"}, "libsvtav1": {"g": "20", "preset": "12"}}
AV1 = next((each for each in _AV1.items() if each[0] in av.codecs_available), ("libaom-av1", {}))
KINDS = [
    Kind("x264_defaults.mp4", X264, frames=300),
    Kind("x264_g12.mp4", X264, {"g": "12"}),
    Kind("x264_open.mp4", X264, _OPEN, frames=120),
    Kind("x264_intra.mp4", X264, {"g": "1"}),
    Kind("x264_refresh.mp4", X264, {"x264-params": "intra-refresh=1:keyint=20"}),
    Kind("x264_no_b.mkv", X264, {"g": "20", "bf": "0"}),
    Kind("x264_g20.mkv", X264, {"g": "20"}, frames=200),
    Kind("x264_faststart.mov", X264, {"g": "25"}, {"movflags": "faststart"}),
    Kind("x264_fragments.mp4", X264, {"g": "15"}, {"movflags": "frag_keyframe+empty_moov"}),
    Kind("x264_dash.mp4", X264, {"g": "15"}, {"movflags": "dash+frag_keyframe"}),
    Kind("x264.avi", X264, {"g": "20", "bf": "0"}),
    Kind("x264_b.avi", X264, {"g": "20", "bf": "3"}),
    Kind("x264.flv", X264, {"g": "20"}),
    Kind("x264_defaults.ts", X264, frames=300),
    Kind("x264_open.ts", X264, _OPEN, frames=120),
    Kind("x264_refresh.ts", X264, {"x264-params": "intra-refresh=1:keyint=20"}),
    Kind("x264.m2ts", X264, {"g": "20"}),
    Kind("x264.nut", X264, {"g": "20"}),
    Kind("x264_10bit.mkv", X264, {"g": "20"}, pixels="yuv420p10le"),
    Kind("x264_444.mp4", X264, {"g": "20"}, pixels="yuv444p"),
    Kind("raw.h264", X264, {"g": "20"}),
    Kind("x265_defaults.mp4", X265, _QUIET),
    Kind("x265_open.mkv", X265, _X265_OPEN, frames=90),
    Kind("x265_open.ts", X265, _X265_OPEN, frames=90),
    Kind("raw.hevc", X265, _X265_OPEN),
    Kind("mpeg4_b.avi", "mpeg4", {"bf": "2", "g": "60"}, frames=200),
    Kind("mpeg4.avi", "mpeg4", {"g": "20"}),
    Kind("mpeg4_b.mp4", "mpeg4", {"bf": "2", "g": "20"}),
    Kind("mpeg4.m4v", "mpeg4", {"bf": "2", "g": "20"}),
    Kind("divx3.avi", "msmpeg4v3", {"g": "30"}),
    Kind("mpeg2.mpg", "mpeg2video", {"bf": "2", "g": "15"}, frames=120),
    Kind("mpeg2.vob", "mpeg2video", {"bf": "2", "g": "15"}),
    Kind("mpeg2.ts", "mpeg2video", {"bf": "2", "g": "15"}),
    Kind("mpeg2.mkv", "mpeg2video", {"bf": "2", "g": "15"}),
    Kind("mpeg1.mpg", "mpeg1video", {"bf": "2", "g": "15"}),
    Kind("vp8.webm", "libvpx", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    Kind("vp9.webm", "libvpx-vp9", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}),
    Kind("vp9.mp4", "libvpx-vp9", {"g": "20", "cpu-used": "8"}),
    Kind("vp9.ivf", "libvpx-vp9", {"g": "20", "cpu-used": "8"}),
    Kind("vp8_live.webm", "libvpx", {"g": "20"}, {"live": "1"}),  # no duration and no index, as a recorder writes it
    Kind("av1.mp4", *AV1),
    Kind("av1.mkv", *AV1),
    Kind("av1.obu", *AV1, frames=30),
    Kind("mjpeg.avi", "mjpeg", pixels="yuvj420p"),
    Kind("mjpeg.mjpeg", "mjpeg", pixels="yuvj420p"),
    Kind("prores.mov", "prores_ks", pixels="yuv422p10le"),
    Kind("ffv1.mkv", "ffv1"),
    Kind("huffyuv.avi", "huffyuv", pixels="yuv422p"),
    Kind("wmv2.wmv", "wmv2", {"g": "30"}),
    Kind("h263.3gp", "h263", size=(176, 144)),
    Kind("sorenson.flv", "flv", {"g": "20"}),
    Kind("animation.gif", "gif", pixels="rgb8", frames=30),
    Kind("animation.apng", "apng", pixels="rgb24", frames=30),
    Kind("varying.mp4", X264, {"g": "20"}, times=_varying),
    Kind("varying.mkv", X264, {"g": "20"}, times=_varying),
    Kind("late.mp4", X264, {"g": "20"}, times=lambda number: number + 175),
    Kind("copied_defaults.mp4", X264, frames=200, then=_copied(1.4, 6)),
    Kind("copied_open.mp4", X264, _OPEN, frames=120, then=_copied(1.1, 4)),
    Kind("copied_open.mkv", X264, _OPEN, frames=120, then=_copied(1.1, 4)),
    Kind("copied_open.ts", X264, _OPEN, frames=120, then=_copied(1.1, 4)),
    Kind("copied_x265.mp4", X265, _X265_OPEN, frames=90, then=_copied(1.1, 3)),
    Kind("copied_mpeg2.mpg", "mpeg2video", {"bf": "2", "g": "15"}, frames=90, then=_copied(1.1, 3)),
    Kind("begun_midway.ts", X264, {"g": "20"}, frames=200, then=_cut(0.3, 1)),
    Kind("begun_midway.mpg", "mpeg2video", {"bf": "2", "g": "15"}, frames=120, then=_cut(0.35, 1)),
    Kind("broken_off.ts", X264, {"g": "20"}, frames=120, then=_cut(0, 0.7)),
    Kind("size_changes.ts", X264, {"g": "20"}, then=_halved),
]
TURNED = [
    Kind("turned_90.mp4", X264, {"g": "20"}, then=with_matrix(0, 1, -1, 0), quarter_turns=1),
    Kind("turned_180.mp4", X264, {"g": "20"}, then=with_matrix(-1, 0, 0, -1), quarter_turns=2),
    Kind("turned_270.mov", X264, {"g": "20"}, then=with_matrix(0, -1, 1, 0), quarter_turns=3),
]
MIRRORED = Kind("mirrored.mp4", X264, {"g": "20"}, then=with_matrix(-1, 0, 0, 1))
