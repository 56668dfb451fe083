"""A video that is a folder of pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dycoke.video import folder as folders
from dycoke.video.frames import read_frames
from dycoke.video.timeline import evenly
from tests.cli.files import write_video


def grey(level: int, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, level if mode == "L" else (level, level, level))


def read_folder(path, count: int) -> np.ndarray:
    return folders.read_folder(path, evenly(count))


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures 1.png ... 12.png, each as bright as its number says."""
    for number in range(12, 0, -1):
        grey(number).save(tmp_path / f"{number}.png")
    return tmp_path


def levels(frames: np.ndarray) -> list[int]:
    return frames[:, 0, 0, 0].tolist()


def test_pictures_in_the_order_of_their_numbers_at_even_places(folder):
    frames = read_folder(folder, 5)
    assert frames.shape == (5, 4, 6, 3)
    assert frames.dtype == np.uint8
    assert levels(frames) == [1, 3, 6, 9, 12]
    assert levels(read_folder(str(folder), 12)) == list(range(1, 13))


def test_fewer_pictures_than_frames_stand_several_times(folder):
    assert levels(read_folder(folder, 24))[:5] == [1, 1, 1, 2, 2]


def test_other_files_are_no_frames(folder):
    (folder / "0.txt").write_text("notes")
    (folder / "0").mkdir()
    grey(13, mode="L").save(folder / "13.JPG")
    assert levels(read_folder(folder, 13)) == list(range(1, 14))


def test_a_video_is_read_as_one_and_a_folder_as_one(folder):
    video = write_video(folder / "film.mp4", frames=6)
    assert read_frames(video, 3).shape == (3, 64, 64, 3)
    assert levels(read_frames(folder, 3)) == [1, 6, 12]


def test_an_empty_folder(tmp_path):
    with pytest.raises(
        ValueError, match=r"no frames in this folder; expected a video file, or files \.jpg, \.jpeg, \.png"
    ):
        read_folder(tmp_path, 4)


def test_a_picture_that_is_none(folder):
    (folder / "6.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"6\.png: not a picture that can be read"):
        read_folder(folder, 12)


def test_a_picture_that_is_cut(folder):
    whole = (folder / "6.png").read_bytes()
    (folder / "6.png").write_bytes(whole[: len(whole) - 40])
    with pytest.raises(ValueError, match=r"6\.png: not a picture that can be read"):
        read_folder(folder, 12)


def test_pictures_of_several_sizes(folder):
    grey(6, (8, 4)).save(folder / "6.png")
    with pytest.raises(ValueError, match=r"frames of several sizes: 6x4, 8x4$"):
        read_folder(folder, 12)


@pytest.mark.parametrize("count", [0, -1, True])
def test_a_number_of_frames_that_is_none(folder, count):
    with pytest.raises(ValueError, match="frames="):
        read_frames(folder, count)


def test_pictures_stand_upright(tmp_path):
    """Cameras note how they were held."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    for number in range(2):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png", exif=exif)
    frames = read_frames(tmp_path, 2)
    assert frames.shape == (2, 6, 4, 3)
    assert (frames[:, :, -1] == 200).all() and (frames[:, :, :-1] == 0).all()


def test_large_pictures_are_scaled_to_what_memory_allows(folder):
    frames = read_frames(folder, 12, most_bytes=12 * 3 * 6)
    assert frames.shape == (12, 2, 3, 3)
    assert levels(frames) == list(range(1, 13))
