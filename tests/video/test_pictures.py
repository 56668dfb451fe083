"""Pictures and animations as videos."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFile

from dycoke.video.frames import read_frames, reader_of
from tests.video.kinds import drawn, number_of


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff", "ppm"])
def test_a_picture_is_a_video_of_one_frame(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(drawn(341)).save(path)
    frames = read_frames(path, 4)
    assert frames.shape == (4, 96, 160, 3) and {number_of(frame) for frame in frames} == {341}
    assert reader_of(path) == "pillow"


def test_a_picture_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(np.ascontiguousarray(drawn(341)[::-1, ::-1])).save(tmp_path / "photo.jpg", exif=exif)
    assert number_of(read_frames(tmp_path / "photo.jpg", 1)[0]) == 341


def test_a_picture_with_transparency_or_a_palette(tmp_path):
    image = Image.fromarray(drawn(341))
    image.convert("RGBA").save(tmp_path / "clear.png")
    image.quantize(16).save(tmp_path / "palette.png")
    for name in ("clear.png", "palette.png"):
        assert number_of(read_frames(tmp_path / name, 1)[0]) == 341


@pytest.mark.parametrize("suffix", ["webp", "tiff", "gif", "png"])
def test_an_animation_has_all_its_frames(tmp_path, suffix):
    pictures = [Image.fromarray(drawn(number)) for number in range(9)]
    options = {} if suffix == "tiff" else {"duration": 100}
    pictures[0].save(tmp_path / f"film.{suffix}", save_all=True, append_images=pictures[1:], **options)
    assert [number_of(frame) for frame in read_frames(tmp_path / f"film.{suffix}", 5)] == [0, 2, 4, 6, 8]


def test_even_moments_of_an_animation(tmp_path):
    pictures = [Image.fromarray(drawn(number)) for number in range(4)]
    pictures[0].save(tmp_path / "film.webp", save_all=True, append_images=pictures[1:], duration=[100, 100, 800, 100])
    # the frames begin at 0, 0.1, 0.2 and 1.0 s; the moments are 0, 0.25, 0.5, 0.75 and 1.0 s
    assert [number_of(frame) for frame in read_frames(tmp_path / "film.webp", 5, sampling="time")] == [0, 2, 2, 2, 3]


def test_a_picture_beyond_all_memory(tmp_path, monkeypatch):
    Image.fromarray(drawn(1)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"huge\.png: .*accepted: pictures of at most 100 pixels"):
        read_frames(tmp_path / "huge.png", 1)


def test_a_picture_that_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as some tasks of lmms-eval leave it
    Image.fromarray(drawn(1)).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.png: not a picture that can be read"):
        read_frames(tmp_path / "cut.png", 1)
