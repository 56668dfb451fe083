"""Scenes as mp4 files, and what a reader gets back."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dycoke.nano.batches import evaluation_scenes
from dycoke.nano.evaluate import drawn_frames, filmed_frames
from dycoke.nano.generator import TICKS, render
from dycoke.nano.generator.raster import SIDE
from dycoke.nano.video import SHORTEST, frames_of, ticks_of, write_mp4
from dycoke.nano.views import NATIVE
from dycoke.video.frames import read_frames

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


@pytest.mark.slow
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


@pytest.mark.parametrize("frames", [SHORTEST, 12, 32, TICKS])
def test_a_video_covers_its_scene(frames):
    scene = evaluation_scenes(1)
    shown = frames_of(scene, frames)
    assert shown.shape == (frames, SIDE, SIDE, 3) and shown.dtype == torch.uint8
    ticks = torch.tensor([i * TICKS // frames for i in range(frames)])
    assert ticks_of(frames).equal(ticks) and ticks[0] == 0 and ticks[-1] > TICKS - TICKS / frames - 1
    some = torch.tensor([0, frames // 2, frames - 1])
    assert torch.equal(shown[some].permute(0, 3, 1, 2), render(scene, ticks[some][None]).pixels[0])


@pytest.mark.parametrize("frames", [SHORTEST - 1, TICKS + 1])
def test_videos_too_short_or_too_long_are_refused(frames):
    with pytest.raises(ValueError, match=f"frames={frames}: expected 8 to 64"):
        frames_of(evaluation_scenes(1), frames)


def test_a_video_shows_one_scene():
    with pytest.raises(ValueError, match="one scene, not 2"):
        frames_of(evaluation_scenes(2))


def test_a_filmed_scene_looks_like_the_drawn_one(tmp_path):
    scene = evaluation_scenes(1, 18)
    filmed, drawn = filmed_frames(scene, tmp_path).astype(float), drawn_frames(scene).astype(float)
    assert filmed.shape == drawn.shape == (NATIVE, SIDE, SIDE, 3)
    off = np.abs(filmed - drawn).mean((1, 2, 3))
    assert off.max() < 6
    assert np.abs(filmed[:-1] - drawn[1:]).mean() > off.mean()  # each frame is its own, not a neighbour's
