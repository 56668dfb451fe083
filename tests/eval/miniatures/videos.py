"""Small videos of synthetic scenes."""

from __future__ import annotations

from pathlib import Path

import torch

from dycoke.nano.batches import evaluation_scenes
from dycoke.nano.generator import FRAMES, render
from dycoke.nano.video import RATE, write_mp4

SIDE = 64
SECONDS = 2


def write_scene(path: Path, number: int) -> None:
    """Write scene `number`, sped up to two seconds, as an mp4 file."""
    count = RATE * SECONDS
    times = torch.arange(count) * (FRAMES / count)
    pixels = render(evaluation_scenes(1, number), times[None], SIDE).pixels[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous())
