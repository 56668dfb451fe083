"""Frames of a video file, decoded with PyAV: by seeks where timestamps prove them right, else in order.

A seek is trusted only if every frame decoded behind it has the time that the packets promised for its place. Where one
has not (files cut by stream copy at an open group of pictures, AVI with B-frames, wrong key frames, streams that were
damaged), all frames are decoded from the first on and counted as they are shown, as the ffmpeg command does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import av
import numpy as np

from dycoke.video.canvas import MOST_BYTES, Askew, Canvas
from dycoke.video.packets import Packets, demuxed, timeline_of
from dycoke.video.timeline import Choose

MOST_PIXELS = 2**26  # 8192 x 8192: a damaged header may ask for more than any memory holds
_THREADS = 16  # what FFmpeg itself takes at most
_THREAD_BYTES = 2**29  # of frames that decoding threads work on
_WORTH_A_SEEK = 16  # frames: decoding so many costs no more than a seek and filling the decoder again
_ATTEMPTS = 3
_LISTS = {"hls", "dash", "concat", "sdp", "rtsp", "webm_dash_manifest", "imf", "lavfi", "redir", "sap", "ffmetadata"}


class _Unproved(Exception):
    """Error for frames that are not where the packets promised them."""


def decode(path: Path, choose: Choose, most_bytes: int = MOST_BYTES) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 that `choose` takes of those a video shows.

    Raises ValueError for what is not a video, cannot be decoded, or shows no frame, and what `choose` raises.
    """
    with opened(path) as (container, stream), _readable(path):
        packets = Packets.of(container, stream)
    if not packets.shown:
        raise ValueError(f"{path}: cannot be decoded; the file is damaged, or there is no frame in it")
    if packets.ordered:
        with suppress(_Unproved), _readable(path):
            return _by_seeks(path, packets, choose, most_bytes)
    return _in_order(path, packets, choose, most_bytes)


@contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container of a file and the video in it that the ffmpeg command shows.

    Raises ValueError if it is not a video file.
    """
    try:
        # "file:" because a path may look like a protocol ("a:b.mp4"). `options` would go to the streams too, and PyAV
        # writes beyond its list of them where probing finds more than the header names.
        container = av.open(f"file:{path}", container_options=_only_files(), metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a video file ({getattr(error, 'strerror', None) or error})") from error
    with container:
        streams = [
            each for each in container.streams.video if not each.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams:
            raise ValueError(f"{path}: no video in this {container.format.name} file")
        stream = max(streams, key=_preference)
        context = stream.codec_context
        if context is None:
            raise ValueError(f"{path}: a video of an unknown codec")
        pixels = context.width * context.height
        if pixels > MOST_PIXELS:
            raise ValueError(
                f"{path}: frames of {context.width}x{context.height}: expected at most {MOST_PIXELS} pixels; the file "
                "is damaged, or its frames have to be scaled down first"
            )
        context.options = {"max_pixels": str(MOST_PIXELS)}
        context.thread_type = "AUTO"
        context.thread_count = min(cores(), _THREADS, max(1, _THREAD_BYTES // max(2 * pixels, 1)))
        yield container, stream


@cache
def _only_files() -> dict[str, str]:
    """Options of FFmpeg that keep it from lists of other files, which it may wait for without end."""
    families = [name for name in sorted(av.formats_available) if not _LISTS & set(name.split(","))]
    return {"protocol_whitelist": "file", "format_whitelist": ",".join(families)}


def _preference(stream: av.VideoStream) -> tuple[int, int]:
    """Sort key of the video streams of a file, as the ffmpeg command chooses: the largest, the default, the first."""
    context = stream.codec_context
    default = bool(stream.disposition & av.stream.Disposition.default)
    size = 0 if context is None else context.width * context.height
    return size + 5_000_000 * default, -stream.index


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise ValueError of one line for what FFmpeg cannot read or decode."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path}: cannot be decoded; the file is damaged, truncated or of an unknown codec ({error.strerror})"
        ) from error
    except Askew as error:
        raise ValueError(f"{path}: {error}") from error


def _by_seeks(path: Path, packets: Packets, choose: Choose, most_bytes: int) -> np.ndarray:
    """The frames, each decoded from the nearest packet that decoding can begin at. Raises _Unproved."""
    with opened(path) as (container, stream), _painting(stream, packets, choose, most_bytes) as (canvas, numbers):
        for key, places in _runs(packets, sorted(numbers)):
            at = 0 if key is None else packets.place_of(key)
            for frame in _run(container, stream, packets, key):
                if frame.is_corrupt or at >= len(packets.shown) or frame.pts != packets.shown[at]:
                    raise _Unproved
                if not frame.key_frame and (frame.pts == key or at == 0):  # what is shown there needs what came before
                    raise _Unproved
                if at in numbers:
                    canvas.put(frame, numbers[at])
                at += 1
                if at > places[-1]:
                    break
            else:
                raise _Unproved
        return canvas.frames()


@contextmanager
def _painting(
    stream: av.VideoStream, packets: Packets, choose: Choose, most_bytes: int
) -> Iterator[tuple[Canvas, dict[int, list[int]]]]:
    """A canvas for the frames chosen of a forecast, and which of them each frame of the video is."""
    places = choose(timeline_of(packets.shown, stream))
    canvas = Canvas(len(places), most_bytes, cores())
    try:
        yield canvas, _numbers(places)
    finally:
        canvas.close()


def _numbers(places: np.ndarray) -> dict[int, list[int]]:
    numbers: dict[int, list[int]] = {}
    for number, place in enumerate(places.tolist()):
        numbers.setdefault(place, []).append(number)
    return numbers


def _runs(packets: Packets, places: list[int]) -> list[tuple[int | None, list[int]]]:
    """Places, ascending, in runs that are decoded at one go: from a time to seek to, None for the beginning."""
    runs, at = [(None, [])], 0  # at: the next frame that decoding would bring
    for place in places:
        key = packets.key_before(place)
        if key is not None and packets.place_of(key) > at + _WORTH_A_SEEK:
            runs.append((key, []))
        runs[-1][1].append(place)
        at = place + 1
    return [run for run in runs if run[1]]


def _run(
    container: av.container.InputContainer, stream: av.VideoStream, packets: Packets, key: int | None
) -> Iterator[av.VideoFrame]:
    """Frames from the packet of time `key` on, without those that lead up to it; None: from the beginning."""
    try:
        if key is None:
            yield from container.decode(stream)
            return
        for packet in _from_key(container, stream, key):
            for frame in packet.decode():
                if frame.pts is None or frame.pts >= key:
                    yield frame
    except av.error.FFmpegError as error:
        raise _Unproved from error


def _from_key(container: av.container.InputContainer, stream: av.VideoStream, key: int) -> Iterator[av.Packet]:
    """Packets of the stream behind a seek, from the one of time `key` on. Raises _Unproved if it does not come."""
    container.seek(key, stream=stream)
    found = False
    for packet in demuxed(container, stream):
        found = found or (packet.is_keyframe and packet.pts == key)
        if found:
            yield packet
        elif packet.is_keyframe and packet.pts is not None and packet.pts > key:
            break
    if not found:
        raise _Unproved


def _in_order(path: Path, packets: Packets, choose: Choose, most_bytes: int) -> np.ndarray:
    """The frames, of all that are shown from the first to the last. How many those are is known only behind them."""
    for _ in range(_ATTEMPTS):
        shown: list[int | None] = []
        with (
            opened(path) as (container, stream),
            _readable(path),
            _painting(stream, packets, choose, most_bytes) as (canvas, numbers),
        ):
            for frame in _all(container, stream):
                if len(shown) in numbers:
                    canvas.put(frame, numbers[len(shown)])
                shown.append(frame.pts)
            if not shown:
                raise ValueError(f"{path}: cannot be decoded; the file is damaged, or there is no frame in it")
            packets = Packets(tuple(shown), (), False)
            if _numbers(choose(timeline_of(packets.shown, stream))) == numbers:
                return canvas.frames()
    raise ValueError(f"{path}: cannot be decoded; the file is damaged: it decodes to other frames each time")


def _all(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """All frames that are shown; from the first whole one on where a recording begins midway.

    Packets before it cannot be decoded, or, in HEVC, give grey frames, which newer releases of FFmpeg do not show.
    """
    begun, needs_key = False, stream.codec_context.name == "hevc"
    for packet in demuxed(container, stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if begun:
                raise
            continue
        for frame in frames:
            begun = begun or not needs_key or frame.key_frame
            if begun:
                yield frame
