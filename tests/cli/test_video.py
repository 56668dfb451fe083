"""Which frames are read."""

from __future__ import annotations

import numpy as np
import pytest

from dycoke.ask.container import is_cut
from dycoke.ask.video import read_frames
from tests.cli import files


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


def test_a_header_that_claims_more_frames_than_bytes(tmp_path):
    path = files.write_video(tmp_path / "many.avi")
    content = bytearray(path.read_bytes())
    for name, at in ((b"avih", 24), (b"strh", 40)):  # total frames of the file, length of the stream
        place = content.index(name) + at
        content[place : place + 4] = (2**30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="header claims 1073741824 frames"):
        read_frames(path, 3)
