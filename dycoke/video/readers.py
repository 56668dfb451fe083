"""decord and torchcodec as readers: which frames they return is up to their own seeks, unchecked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from dycoke.video.canvas import MOST_BYTES
from dycoke.video.decode import opened
from dycoke.video.packets import Packets, timeline_of
from dycoke.video.reading import DECORD, PYAV, TORCHCODEC, package_of
from dycoke.video.timeline import Choose, Timeline

# decord never comes back from a transport stream, finds other frames than it is asked for in a program stream, and
# takes any number of frames that an AVI's header claims.
_DECORD_FAMILIES = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "asf")


def read_with_decord(path: Path, choose: Choose, most_bytes: int = MOST_BYTES) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 that `choose` takes, by decord's seek.

    That gives other frames than a player shows where groups of pictures are open, frames are reordered in an AVI, or
    an edit list cuts. Raises ValueError for a container decord does not serve, for frames that would take more than
    `most_bytes`, and for what it cannot decode.
    """
    with opened(path) as (container, stream):
        family, claimed, turned = container.format.name, stream.frames, _size(stream)
    if family not in _DECORD_FAMILIES:
        raise ValueError(f"{path}: reader='decord' does not serve a file of kind {family}; accepted: reader={PYAV!r}")
    if claimed > path.stat().st_size:  # decord allocates for that many, and the process dies
        raise ValueError(f"{path}: its header claims {claimed} frames, more than its bytes; accepted: reader={PYAV!r}")
    decord = package_of(DECORD)
    errors = (import_module("decord._ffi.base").DECORDError, RuntimeError)
    with _in_a_line(path, errors):
        video = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        times = _Times(len(video), lambda: video.get_frame_timestamp(range(len(video)))[:, 0])
        places = choose(Timeline(len(video), times, video.get_avg_fps() or None)) if len(video) else []
        _check_memory(path, DECORD, len(places), turned, most_bytes)
        frames = video.get_batch(places).asnumpy() if len(places) else None
    if frames is None:
        raise ValueError(f"{path}: no frames in this video")
    return frames


def read_with_torchcodec(path: Path, choose: Choose, most_bytes: int = MOST_BYTES) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 that `choose` takes, by torchcodec's exact seek.

    Raises ValueError for frames that would take more than `most_bytes`, and for what it cannot decode.
    """
    decoders = package_of(TORCHCODEC)
    with opened(path) as (_, stream):
        index, size = stream.index, _size(stream)
    with _in_a_line(path, (RuntimeError, ValueError, IndexError)):
        video = decoders.VideoDecoder(
            str(path), stream_index=index, dimension_order="NHWC", num_ffmpeg_threads=0, seek_mode="exact"
        )
        count, rate = len(video), video.metadata.average_fps
    if not count:
        raise ValueError(f"{path}: no frames in this video")
    places = choose(Timeline(count, _Times(count, lambda: _packet_times(path, count)), rate))
    _check_memory(path, TORCHCODEC, len(places), size, most_bytes)
    with _in_a_line(path, (RuntimeError, ValueError, IndexError)):
        return video.get_frames_at(indices=places.tolist()).data.cpu().numpy()


class _Times(Sequence[float]):
    """Times at which frames begin, asked for only where a sampling needs them."""

    def __init__(self, count: int, ask: Callable[[], np.ndarray]) -> None:
        self._count, self._ask = count, ask

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: Any) -> Any:
        return self._ask()[place]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._ask(), dtype=dtype)


def _packet_times(path: Path, count: int) -> np.ndarray:
    """Times of a file's frames, from its packets. Raises ValueError if the counts differ."""
    with opened(path) as (container, stream):
        times = timeline_of(Packets.of(container, stream).shown, stream).times
    if times is None or len(times) != count:
        raise ValueError(f"{path}: sampling='time': the times of its {count} frames are unknown; accepted: index")
    return np.asarray(times)


def _size(stream: Any) -> int:
    return stream.codec_context.width * stream.codec_context.height


def _check_memory(path: Path, reader: str, count: int, pixels: int, most_bytes: int) -> None:
    if 3 * count * pixels > most_bytes:
        raise ValueError(
            f"{path}: {count} frames of {pixels} pixels take more than {most_bytes} bytes, and reader={reader!r} does "
            f"not scale them as it decodes; accepted: fewer frames, or reader={PYAV!r}"
        )


@contextmanager
def _in_a_line(path: Path, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Raise ValueError of one line where a video cannot be decoded; these packages' own are stack traces of C++."""
    try:
        with _quiet():
            yield
    except errors as error:
        raise ValueError(
            f"{path}: cannot be decoded; the file is damaged, truncated, without an index, or of an unknown codec"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard what native code writes to stderr: decord writes even at its quietest level."""
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
