"""Which frames are read."""

from __future__ import annotations

import numpy as np
import pytest

from dycoke.ask.video import read_frames
from tests.cli import files


@pytest.mark.parametrize("count", [1, 2, 5, 12, 20])
def test_even_places_as_lmms_eval_takes_them(video, count):
    """Frame i of the file has the brightness 10 * i, so that a frame names its place."""
    frames = read_frames(video, count)
    assert frames.shape == (count, 64, 64, 3) and frames.dtype == np.uint8
    places = (frames.mean(axis=(1, 2, 3)) / 10).round().astype(int)
    assert places.tolist() == np.linspace(0, 11, count, dtype=int).tolist()


def test_bytes_after_the_last_box_do_no_harm(tmp_path):
    path = files.write_video(tmp_path / "ok.mp4")
    expected = read_frames(path, 4)
    with path.open("ab") as file:
        file.write(b"\x00" * 100)
    assert np.array_equal(read_frames(path, 4), expected)


@pytest.mark.parametrize("name,codec", [("ok.mkv", "mpeg4"), ("ok.webm", "libvpx"), ("ok.avi", "mpeg4")])
def test_other_containers_are_read(tmp_path, name, codec):
    frames = read_frames(files.write_video(tmp_path / name, codec=codec), 3)
    assert (frames.mean(axis=(1, 2, 3)) / 10).round().astype(int).tolist() == [0, 5, 11]
