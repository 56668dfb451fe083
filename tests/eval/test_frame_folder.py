"""A video that is a folder of pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dycoke.eval.frame_folder import read_folder, read_shown
from tests.cli.files import write_video


def grey(level: int, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, level if mode == "L" else (level, level, level))


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
    assert read_shown(video, 3).shape == (3, 64, 64, 3)
    assert levels(read_shown(folder, 3)) == [1, 6, 12]


def test_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"no frames in this folder; expected files \.jpg, \.jpeg, \.png$"):
        read_folder(tmp_path, 4)


def test_a_picture_that_is_none(folder):
    (folder / "6.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"6\.png: no picture that can be read$"):
        read_folder(folder, 12)


def test_a_picture_that_is_cut(folder):
    whole = (folder / "6.png").read_bytes()
    (folder / "6.png").write_bytes(whole[: len(whole) - 40])
    with pytest.raises(ValueError, match=r"6\.png: no picture that can be read$"):
        read_folder(folder, 12)


def test_pictures_of_several_sizes(folder):
    grey(6, (8, 4)).save(folder / "6.png")
    with pytest.raises(ValueError, match=r"frames of several sizes: 6x4, 8x4$"):
        read_folder(folder, 12)


@pytest.mark.parametrize("count", [0, -1, True])
def test_a_number_of_frames_that_is_none(folder, count):
    with pytest.raises(ValueError, match="frames="):
        read_shown(folder, count)
