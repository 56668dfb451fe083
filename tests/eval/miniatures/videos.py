"""Small videos of synthetic scenes."""

from __future__ import annotations

from pathlib import Path

from dycoke.nano.batches import evaluation_scenes
from dycoke.nano.generator import FRAME, render
from dycoke.nano.video import RATE, ticks_of, write_mp4

SIDE = FRAME
SECONDS = 2


def write_scene(path: Path, number: int) -> None:
    """Write scene `number`, sped up to two seconds, as an mp4 file."""
    pixels = render(evaluation_scenes(1, number), ticks_of(RATE * SECONDS)[None], SIDE).pixels[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, pixels.permute(0, 2, 3, 1).contiguous())
