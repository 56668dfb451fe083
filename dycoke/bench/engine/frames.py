"""Frames to pixels on the model's device, which comes before the first stage."""

from __future__ import annotations

from typing import Any

import torch

from dycoke.bench.engine.setting import Setting
from dycoke.bench.timing import time_eager, time_on_host
from dycoke.video.pixels import FrameSettings

SOURCE = 360, 640  # height and width of a frame as a video has it


def measure_frames(setting: Setting, device: str) -> dict[str, Any]:
    """Milliseconds from a video's frames [T, 360, 640, 3] uint8 on the device to the pixels the tower reads.

    Raises RuntimeError if those are not what the tower reads.
    """
    side, height, width = setting.vision.side, *SOURCE
    settings = FrameSettings((side, side), "bicubic", None, 1 / 255, (0.5,) * 3, (0.5,) * 3)
    generator = torch.Generator(device).manual_seed(4)
    sizes = setting.frames, height, width, 3
    frames = torch.randint(0, 256, sizes, dtype=torch.uint8, device=device, generator=generator)
    pixels = settings(frames, device, setting.torch_dtype)
    if pixels.shape != (setting.frames, 3, side, side) or not bool((pixels.abs() <= 1).all()):
        raise RuntimeError(f"pixels {tuple(pixels.shape)}: expected {setting.frames} frames of {side}, within -1 and 1")
    timed = time_on_host if device == "cpu" else time_eager
    times = timed(lambda: settings(frames, device, setting.torch_dtype), setting.rounds)
    return {
        "source": list(SOURCE),
        "median_ms": times.median_ms,
        "iqr_ms": times.iqr_ms,
        "runs": len(times.samples),
    }
