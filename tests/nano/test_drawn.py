"""Videos that the embedded model knows are told from others by their pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dycoke.nano.drawn import is_drawn
from dycoke.nano.generator import LEVELS, render, sample_scenes
from dycoke.nano.samples import read_samples
from dycoke.nano.video import write_mp4
from dycoke.video.frames import read_frames

SIDE = 128


def drawn(level: str, seed: int, ticks: int, side: int = SIDE) -> np.ndarray:
    """Frames [ticks, side, side, 3] of a scene."""
    scene = sample_scenes(torch.tensor([seed]), level)
    places = torch.linspace(5, 63, ticks).long()
    return render(scene, places[None], side).pixels[0].permute(0, 2, 3, 1).contiguous().numpy()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("ticks", "side"), [(1, 128), (3, 128), (2, 64)])
def test_scenes_of_every_level_are(level, ticks, side):
    assert all(is_drawn(drawn(level, 7919 * seed + 11, ticks, side)) for seed in range(5))


@pytest.mark.parametrize("quality", [20, 36])
def test_encoded_they_still_are(tmp_path, quality):
    write_mp4(tmp_path / "clip.mp4", torch.from_numpy(drawn("hard", 5, 8)), quality=quality)
    assert is_drawn(read_frames(tmp_path / "clip.mp4", 4))


@pytest.mark.parametrize("sample", read_samples(), ids=lambda sample: sample.video.stem)
@pytest.mark.parametrize("frames", [1, 32])
def test_the_shipped_samples_are(sample, frames):
    assert is_drawn(read_frames(sample.video, frames))


def _others() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0)
    across = np.broadcast_to(np.linspace(0, 255, SIDE), (4, SIDE, SIDE))
    scene = drawn("easy", 3, 2)
    return {
        "black": np.zeros((2, SIDE, SIDE, 3), np.uint8),
        "one colour": np.full((2, SIDE, SIDE, 3), (30, 60, 120), np.uint8),
        "white noise": noise.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8),
        "dark noise": noise.integers(0, 120, (2, SIDE, SIDE, 3), dtype=np.uint8),
        "a ramp": np.stack([across, across[:, ::-1], across.transpose(0, 2, 1)], -1).astype(np.uint8),
        "a bright scene": np.clip(scene.astype(int) + 110, 0, 255).astype(np.uint8),
        "wide": np.repeat(scene, 2, axis=2),
        "grey": np.repeat(scene.mean(-1, keepdims=True).astype(np.uint8), 3, -1),
    }


@pytest.mark.parametrize("name", _others())
def test_others_are_not(name):
    assert not is_drawn(_others()[name])
