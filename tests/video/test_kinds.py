"""Every frame that is read of videos of many kinds, against a decode of all frames in their order."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from dycoke.video import decode as decoding
from dycoke.video.frames import read_frames
from tests.video.kinds import KINDS, MIRRORED, TURNED, Kind, number_of, shown, with_matrix

COUNTS = (1, 2, 3, 8, 17)


def places(total: int, count: int) -> list[int]:
    return np.linspace(0, total - 1, count, dtype=int).tolist()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.id)
def test_frames_are_those_shown_at_even_places(kind, tmp_path):
    path = kind.write(tmp_path)
    numbers = shown(path)
    assert len(numbers) > 12 and len(set(numbers)) > 12, "the file itself shows next to nothing"
    for count in (*COUNTS, len(numbers), len(numbers) + 3):
        read = [number_of(frame) for frame in read_frames(path, count)]
        assert read == [numbers[place] for place in places(len(numbers), count)], f"{count} frames"


@pytest.mark.parametrize("kind", KINDS[:3] + KINDS[24:27] + KINDS[57:60], ids=lambda kind: kind.id)
def test_numbers_shown_by_the_ffmpeg_command(kind, tmp_path):
    """The reference is right itself, where the command is there."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg command")
    path = kind.write(tmp_path)
    line = ["ffmpeg", "-v", "error", "-nostdin", "-i", path, "-fps_mode", "passthrough", "-vf", "scale=160:96"]
    done = subprocess.run([*line, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"], capture_output=True, check=True)
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, 96, 160, 3)
    assert [number_of(frame) for frame in frames] == shown(path)


@pytest.mark.parametrize("kind", TURNED, ids=lambda kind: kind.id)
@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_turned_videos_stand_upright(kind, reader, tmp_path):
    if reader == "decord":
        pytest.importorskip("decord")
    frames = read_frames(kind.write(tmp_path), 5, reader=reader)
    assert frames.shape == (5, 96, 160, 3)
    assert [number_of(frame) for frame in frames] == places(60, 5)


def test_a_mirrored_video_is_mirrored_back(tmp_path):
    frames = read_frames(MIRRORED.write(tmp_path), 5)
    assert [number_of(frame[:, ::-1]) for frame in frames] == places(60, 5)


def test_a_video_to_be_turned_askew_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"turned by .* degrees; accepted: multiples of 90"):
        read_frames(Kind("askew.mp4", "libx264", then=with_matrix(1, 1, -1, 1)).write(tmp_path), 2)


def test_even_moments_where_the_rate_varies(tmp_path):
    """Frames that follow each other ever more slowly."""
    kind = next(kind for kind in KINDS if kind.name == "varying.mkv")
    read = [number_of(frame) for frame in read_frames(kind.write(tmp_path), 9, sampling="time")]
    begins = np.array([kind.times(number) for number in range(60)])
    moments = np.linspace(begins[0], begins[-1], 9)
    assert read == [int((begins <= moment + 1e-6).sum()) - 1 for moment in moments]
    assert read != places(60, 9)


def test_a_file_without_times_has_no_even_moments(tmp_path):
    kind = next(kind for kind in KINDS if kind.name == "raw.hevc")
    with pytest.raises(ValueError, match=r"sampling='time': the file does not say when its frames are shown"):
        read_frames(kind.write(tmp_path), 4, sampling="time")


def test_seeks_are_taken_where_they_prove_right(tmp_path, monkeypatch):
    """Reading a few frames of a long file decodes a few groups of pictures, not all of it."""
    kind = next(kind for kind in KINDS if kind.name == "x264_g20.mkv")
    path, taken = kind.write(tmp_path), []
    run = decoding._run
    monkeypatch.setattr(decoding, "_run", lambda *args: (taken.append(frame) or frame for frame in run(*args)))
    monkeypatch.setattr(decoding, "_in_order", None)
    assert [number_of(frame) for frame in read_frames(path, 3)] == [0, 99, 199]
    assert len(taken) <= 1 + 20 + 20


def test_a_seek_that_ends_elsewhere_is_not_trusted(tmp_path, monkeypatch):
    """Frames behind a seek that are not those promised: all are decoded in their order instead."""
    kind = next(kind for kind in KINDS if kind.name == "x264_g20.mkv")
    path, run = kind.write(tmp_path), decoding._run

    def shifted(container, stream, packets, key):
        frames = run(container, stream, packets, key)
        if key is not None:
            next(frames)
        return frames

    monkeypatch.setattr(decoding, "_run", shifted)
    assert [number_of(frame) for frame in read_frames(path, 3)] == [0, 99, 199]
