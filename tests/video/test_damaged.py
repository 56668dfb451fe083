"""Damaged files end in frames or in one line, soon, and within bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from pathlib import Path

import av
import numpy as np
import pytest

from dycoke.video import packets
from dycoke.video.container import is_cut
from dycoke.video.frames import read_frames
from dycoke.video.packets import demuxed
from tests.cli import files
from tests.video.kinds import KINDS

_SECONDS, _BYTES = 20, 2 * 2**30
_DAMAGED = ("x264_g12.mp4", "x264_fragments.mp4", "x264_faststart.mov", "x264_g20.mkv", "vp8.webm", "x264_open.ts")
_DAMAGED += ("mpeg4_b.avi", "x265_open.mkv", "mpeg2.mpg", "vp9.webm", "av1.mp4", "mpeg4_b.mp4")
_EACH, _EACH_OF_ALL = 4, 170  # files of each kind: by default, and with --all


def damaged(content: bytes, number: int) -> bytes:
    """The content with bytes flipped, cut off, spliced out of place, or overwritten."""
    chance = np.random.default_rng(number)
    data, size = bytearray(content), len(content)
    way = number % 5
    if way == 0:
        for place in chance.integers(0, size, chance.integers(1, 60)):
            data[place] ^= int(chance.integers(1, 256))
    elif way == 1:
        del data[int(chance.integers(1, size)) :]
    elif way == 2:
        start, stop = sorted(chance.integers(0, size, 2).tolist())
        at = int(chance.integers(0, size))
        data[at:at] = data[start:stop]
    elif way == 3:
        start = int(chance.integers(0, size))
        del data[start : start + int(chance.integers(1, size // 4))]
    else:  # in the headers above all, where sizes and counts stand
        at = int(chance.integers(0, min(size, 2048)))
        data[at : at + 8] = chance.bytes(8)
    return bytes(data)


def _read(path: Path, said: multiprocessing.connection.Connection) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        frames = read_frames(path, 8)
        said.send("" if frames.ndim == 4 and len(frames) == 8 else f"frames {frames.shape}")
    except (ValueError, OSError) as error:
        said.send("" if "\n" not in str(error) and str(path) in str(error) else f"said {error!r}")
    except BaseException as error:
        said.send(repr(error))


def outcome(path: Path) -> str:
    """What is wrong with how a process of its own gets on with a file, "" if nothing."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_read, args=(path, theirs))
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, time.monotonic()
    process.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(_SECONDS) else f"nothing within {_SECONDS} s"
    except EOFError:
        found = "died"
    process.kill()
    process.join()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    if peak > before and peak * 1024 > _BYTES:
        found = found or f"{peak // 1024} MiB after {time.monotonic() - began:.1f} s"
    return found


@pytest.mark.parametrize("name", _DAMAGED)
def test_damaged_files_end_in_frames_or_one_line(name, tmp_path, request):
    content = next(kind for kind in KINDS if kind.name == name).write(tmp_path).read_bytes()
    wrong = {}
    for number in range(_EACH_OF_ALL if request.config.getoption("--all", False) else _EACH):
        path = tmp_path / f"{number}.{name}"
        path.write_bytes(damaged(content, number))
        found = outcome(path)
        if found:
            wrong[number] = found
        path.unlink()
    assert not wrong


def test_a_stream_that_begins_midway_is_damage(tmp_path, monkeypatch):
    """PyAV looks for it among the streams there were at the beginning, and raises IndexError."""
    path = files.write_video(tmp_path / "film.mp4")
    demux = av.container.InputContainer.demux

    class Container:
        def __init__(self, container):
            self.container = container

        def demux(self, stream):
            yield next(demux(self.container, stream))
            raise IndexError("list index out of range")

    monkeypatch.setattr(packets, "demuxed", lambda container, stream: demuxed(Container(container), stream))
    with pytest.raises(ValueError, match=r"film\.mp4: cannot be decoded; .* \(another stream begins midway\)"):
        read_frames(path, 8)


@pytest.mark.parametrize(
    "name,codec,options,share",
    [
        ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}, 0.99),
        ("film.mkv", "mpeg4", {}, 0.5),
        ("film.avi", "mpeg4", {}, 0.99),
    ],
)
def test_what_only_the_sizes_in_the_headers_tell(tmp_path, name, codec, options, share):
    """FFmpeg gives what is left of these files without a sign of what is not: it counts on no size in a header."""
    path = files.write_cut(tmp_path / name, share, frames=60, codec=codec, options=options)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert not any(packet.is_corrupt for packet in packets)
        assert stream.frames in (0, len(packets)) or stream.frames > len(packets)
    assert is_cut(path)
    with pytest.raises(ValueError, match="truncated video file"):
        read_frames(path, 3)
