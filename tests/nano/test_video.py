"""Scenes as mp4 files, and what a reader gets back."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dycoke.ask.video import read_frames
from dycoke.nano.batches import evaluation_scenes
from dycoke.nano.evaluate import drawn_frames
from dycoke.nano.samples import read_samples
from dycoke.nano.video import RATE, SECONDS, SIDE, frames_of, moments, write_mp4

ROOT = Path(__file__).parents[2]


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


ENCODE_OFTEN = """
import hashlib, sys
from pathlib import Path
import torch
from dycoke.nano.video import write_mp4

generator = torch.Generator().manual_seed(0)
small = torch.rand(12, 3, 4, 4, generator=generator)
clip = torch.nn.functional.interpolate(small, size=(64, 64), mode="bilinear").mul(255).byte().permute(0, 2, 3, 1)
files = set()
for turn in range(150):
    if turn % 3 == 0:
        held = [torch.rand(1000 + 37 * turn) for _ in range(20)]
    write_mp4(Path(sys.argv[1]), clip)
    files.add(hashlib.sha256(Path(sys.argv[1]).read_bytes()).hexdigest())
print(len(files))
"""


def test_the_same_frames_give_the_same_file_whatever_is_in_memory(tmp_path):
    """Which a process of its own shows best: memory there is laid out anew with what is held beside the encoder's."""
    line = [sys.executable, "-c", ENCODE_OFTEN, str(tmp_path / "a.mp4")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(line, env=environment, check=True, capture_output=True, text=True).stdout == "1\n"


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
