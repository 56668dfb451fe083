"""Scenes as mp4 files, and what a reader gets back."""

import numpy as np
import pytest
import torch

from dycoke.ask.video import read_frames
from dycoke.nano.batches import evaluation_scenes
from dycoke.nano.evaluate import drawn_frames
from dycoke.nano.samples import read_samples
from dycoke.nano.video import RATE, SECONDS, SIDE, frames_of, moments, write_mp4


@pytest.fixture(scope="module")
def clip():
    generator = torch.Generator().manual_seed(0)
    picture = torch.nn.functional.interpolate(
        torch.rand(12, 3, 4, 4, generator=generator), size=(64, 96), mode="bilinear"
    )
    return (picture * 255).to(torch.uint8).permute(0, 2, 3, 1)


def test_round_trip(tmp_path, clip):
    path = tmp_path / "clip.mp4"
    write_mp4(path, clip)
    back = read_frames(path, len(clip))
    assert back.shape == clip.shape
    off = np.abs(back.astype(int) - clip.numpy()).mean((1, 2, 3))
    assert off.max() < 5
    assert np.abs(back[0].astype(int) - clip[5].numpy()).mean() > 20  # the frames do differ


def test_the_same_frames_give_the_same_file(tmp_path, clip):
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, clip)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(2, 64, 64, 3),
        torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        torch.zeros(2, 63, 64, 3, dtype=torch.uint8),
    ],
    ids=["float", "channels first", "odd"],
)
def test_frames_of_another_form_are_refused(tmp_path, frames):
    with pytest.raises(ValueError, match="frames"):
        write_mp4(tmp_path / "x.mp4", frames)
    assert not (tmp_path / "x.mp4").exists()


def test_a_video_covers_its_scene():
    assert moments().tolist() == [i / 2 for i in range(64)]
    with pytest.raises(ValueError, match="one scene"):
        frames_of(evaluation_scenes(2))


def test_a_filmed_scene_looks_like_the_drawn_one():
    first = read_samples()[0]
    filmed = read_frames(first.video, 32)
    assert filmed.shape == (32, SIDE, SIDE, 3) and RATE * SECONDS == 64
    small = filmed.reshape(32, 64, 4, 64, 4, 3).mean((2, 4))
    drawn = drawn_frames(evaluation_scenes(1, 18)).astype(float)
    assert np.abs(small[0] - drawn[0]).mean() < 8
    assert np.abs(small[-1] - drawn[-1]).mean() < 8
