"""Which frames are read."""

from __future__ import annotations

import os
import sys

import av
import numpy as np
import pytest

from dycoke.video import decode
from dycoke.video.container import is_cut
from dycoke.video.frames import read_frames
from dycoke.video.reading import check_reader
from tests.cli import files
from tests.video.kinds import KINDS, number_of


@pytest.mark.parametrize("count", [1, 2, 5, 12, 20])
def test_even_places_as_lmms_eval_takes_them(video, count):
    """Frame i of the file has the brightness 10 * i, so that a frame names its place."""
    frames = read_frames(video, count)
    assert frames.shape == (count, 64, 64, 3) and frames.dtype == np.uint8
    places = (frames.mean(axis=(1, 2, 3)) / 10).round().astype(int)
    assert places.tolist() == np.linspace(0, 11, count, dtype=int).tolist()


@pytest.mark.parametrize(
    "junk", [b"\x00" * 100, b"\n", b"\x00\x00\x00", b"junk123", b"TAG" + b"a" * 125, b"<html></html>"]
)
def test_bytes_after_the_last_box_do_no_harm(tmp_path, junk):
    path = files.write_video(tmp_path / "ok.mp4")
    expected = read_frames(path, 4)
    with path.open("ab") as file:
        file.write(junk)
    assert np.array_equal(read_frames(path, 4), expected)


@pytest.mark.parametrize("name,codec", [("ok.mkv", "mpeg4"), ("ok.webm", "libvpx"), ("ok.avi", "mpeg4")])
def test_other_containers_are_read(tmp_path, name, codec):
    frames = read_frames(files.write_video(tmp_path / name, codec=codec), 3)
    assert (frames.mean(axis=(1, 2, 3)) / 10).round().astype(int).tolist() == [0, 5, 11]


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_avi_of_a_streaming_writer(tmp_path, size):
    """Such a writer leaves its sizes open; the file is whole."""
    path = files.write_video(tmp_path / "ok.avi")
    content = bytearray(path.read_bytes())
    content[4:8] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert read_frames(path, 3).shape == (3, 64, 64, 3)


def test_avi_in_two_parts(tmp_path):
    """A part cut in its middle is missed by whoever looks at the first part alone."""
    path = tmp_path / "two.avi"
    part = b"RIFF" + (96).to_bytes(4, "little") + bytes(96)
    path.write_bytes(part + part)
    assert not is_cut(path)
    path.write_bytes(part + part[:-40])
    assert is_cut(path)


@pytest.fixture
def overclaimed(tmp_path):
    """An AVI of twelve frames whose header claims a thousand million."""
    path = files.write_video(tmp_path / "many.avi")
    content = bytearray(path.read_bytes())
    for name, at in ((b"avih", 24), (b"strh", 40)):  # total frames of the file, length of the stream
        place = content.index(name) + at
        content[place : place + 4] = (2**30).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def test_frames_are_counted_not_believed(overclaimed):
    frames = read_frames(overclaimed, 3)
    assert (frames.mean(axis=(1, 2, 3)) / 10).round().astype(int).tolist() == [0, 5, 11]


def test_decord_is_kept_from_a_header_that_claims_more_frames_than_bytes(overclaimed):
    pytest.importorskip("decord")
    with pytest.raises(ValueError, match="header claims 1073741824 frames"):
        read_frames(overclaimed, 3, reader="decord")


def test_decord_is_kept_from_files_it_never_comes_back_from(tmp_path):
    pytest.importorskip("decord")
    path = files.write_video(tmp_path / "ok.ts", codec="libx264")
    with pytest.raises(ValueError, match="does not serve a file of kind mpegts; accepted: reader='pyav'"):
        read_frames(path, 3, reader="decord")


@pytest.mark.parametrize("reader", ["decord", "torchcodec"])
def test_other_readers_give_the_same_frames_of_a_plain_file(video, reader):
    try:
        check_reader(reader)
    except ValueError as error:
        pytest.skip(str(error))
    read = read_frames(video, 7, reader=reader)
    assert np.abs(read.astype(int) - read_frames(video, 7)).mean() < 2


@pytest.mark.parametrize("reader", ["decord", "torchcodec"])
def test_other_readers_take_even_moments(tmp_path, reader):
    try:
        check_reader(reader)
    except ValueError as error:
        pytest.skip(str(error))
    path = next(kind for kind in KINDS if kind.name == "varying.mkv").write(tmp_path)
    numbers = [
        [number_of(frame) for frame in read_frames(path, 9, reader=name, sampling="time")] for name in (reader, "pyav")
    ]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("reader,package", [("decord", "decord"), ("torchcodec", "torchcodec.decoders")])
def test_a_reader_that_is_not_installed(video, monkeypatch, reader, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ValueError, match=f"reader='{reader}': its package cannot be loaded .*install the extra {reader}"
    ):
        read_frames(video, 2, reader=reader)


@pytest.mark.parametrize("option,value", [("reader", "opencv"), ("sampling", "random")])
def test_ways_to_read_that_there_are_none_of(video, option, value):
    with pytest.raises(ValueError, match=f"{option}='{value}': expected one of"):
        read_frames(video, 2, **{option: value})


def test_large_frames_are_scaled_as_they_are_decoded(video):
    """By as much as brings all of them under the limit."""
    whole, small = read_frames(video, 5), read_frames(video, 5, most_bytes=5 * 3 * 32 * 32)
    assert whole.shape == (5, 64, 64, 3) and small.shape == (5, 32, 32, 3)
    assert np.abs(small.mean((1, 2)) - whole.mean((1, 2))).max() < 4


@pytest.mark.parametrize("reader", ["decord", "torchcodec"])
def test_readers_that_cannot_scale_refuse_large_frames(video, reader):
    try:
        check_reader(reader)
    except ValueError as error:
        pytest.skip(str(error))
    with pytest.raises(ValueError, match=r"take more than 100 bytes, .*accepted: fewer frames, or reader='pyav'"):
        read_frames(video, 5, reader=reader, most_bytes=100)


def test_frames_larger_than_any_camera_makes(video, monkeypatch):
    monkeypatch.setattr(decode, "MOST_PIXELS", 64 * 64 - 1)
    with pytest.raises(ValueError, match="frames of 64x64: expected at most 4095 pixels"):
        read_frames(video, 2)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_metadata_that_is_not_utf8_is_no_reason_to_refuse(tmp_path, suffix, encoding):
    path = tmp_path / f"titled.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Grosse Strasse und weiter"
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    title = "Gr\xf6\xdfe".encode(encoding)[:5].ljust(6, b"\xff")
    path.write_bytes(path.read_bytes().replace(b"Grosse", title))
    assert read_frames(path, 2).shape == (2, 64, 64, 3)


def test_the_default_one_of_two_videos(tmp_path):
    """As the ffmpeg command chooses: the larger, unless another is marked as the default."""
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=4) for _ in range(2)]
        for stream, side in zip(streams, (48, 64), strict=True):
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
        for stream in streams:
            image = np.zeros((stream.height, stream.width, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    assert read_frames(path, 1).shape == (1, 64, 64, 3)


def test_a_path_that_looks_like_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_video(tmp_path / "a:b.mp4")
    assert read_frames("a:b.mp4", 2).shape == (2, 64, 64, 3)


def test_a_playlist_does_not_reach_the_web(tmp_path):
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(ValueError, match=r"list\.m3u8"):
        read_frames(tmp_path / "list.m3u8", 2)


def test_a_pipe_is_not_a_video(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match="not a regular file"):
        read_frames(tmp_path / "pipe.mp4", 2)
