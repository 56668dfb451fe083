"""Scenes as real video files: drawn large, encoded with H.264."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from dycoke.nano.generator import TICKS, Scene, render

RATE = 8
"""Frames per second of a video with a frame for each tick."""
SHORTEST = 8
_AT_ONCE = 16


def ticks_of(frames: int) -> Tensor:
    """Tick that each frame of a video shows, int64 [frames]. Raises ValueError unless SHORTEST to TICKS frames."""
    if not SHORTEST <= frames <= TICKS:
        raise ValueError(f"frames={frames}: expected {SHORTEST} to {TICKS}")
    return torch.arange(frames) * TICKS // frames


def frames_of(scene: Scene, frames: int = TICKS) -> Tensor:
    """One scene as a video of SHORTEST to TICKS frames, uint8 [frames, SIDE, SIDE, 3].

    Raises ValueError for another number of frames, and for several scenes.
    """
    if len(scene) != 1:
        raise ValueError(f"a video shows one scene, not {len(scene)}")
    # some frames at a time: all at once would take a gigabyte
    drawn = [render(scene, part[None]).pixels[0] for part in ticks_of(frames).split(_AT_ONCE)]
    return torch.cat(drawn).permute(0, 2, 3, 1).contiguous()


def write_mp4(path: Path, frames: Tensor, rate: int | Fraction = RATE, quality: int = 26) -> None:
    """Encode frames [T, H, W, 3] uint8 with libx264, yuv420p; `quality` is its constant rate factor.

    Raises ValueError for frames of another shape or type, or of odd height or width, which yuv420p cannot hold.
    """
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        raise ValueError(f"frames: expected uint8 [T, H, W, 3], got {frames.dtype} {tuple(frames.shape)}")
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"frames of {width} x {height}: yuv420p needs even sides")
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # So that the same frames give the same file. With x264's macroblock tree those 64 and 96 wide do not, whatever
        # is in memory beside them decides (at 128 and 256 no difference was seen).
        reproducible = {"threads": "1", "x264-params": "mbtree=0"}
        stream.options = {"crf": str(quality), "preset": "medium", **reproducible}
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
