"""Frames to pixels on the model's device, by the settings of the model's own image processor.

What PIL computes for a frame is computed here by torch: one side is resized after the other, the width first, and what
comes out is rounded to 0..255 each time. What is left are sums that end near a half and are rounded to the other side.
Differences to PIL, bicubic, on a CPU, in steps of 1/255 of the range (`tests/engine/test_frames.py` holds them):

    the sample videos, to sides of 37 to 384         at most 2, mean at most 0.008
    noise of odd sizes, made smaller and larger      at most 2, mean at most 0.006

Resizing both sides at once would be off by up to 23 on noise. Pillow resizes the width first in all releases before 13;
from 13 on it starts with the height where that shrinks much and the width does not, as in videos taken upright, and its
own pixels change by that: up to 13 and 0.12 in the mean on upright cuts of the sample videos, 24 and 0.4 on noise.
torchvision, which transformers uses for videos, is off by 1 from PIL, and from this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dycoke.video.routes import AUTO, ROUTES, check_route

_MODES = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
_PROCESSORS = ("CLIPImageProcessor", "SiglipImageProcessor", "LlavaOnevisionVideoProcessor")
_UNSERVED = ("do_pad", "do_sample_frames")
_CHUNK = 256 * 2**20  # bytes of one chunk of frames in float32


@dataclass(frozen=True)
class FrameSettings:
    """Settings of an image processor: what it does to a frame.

    size: (height, width), or the length of the shorter side, or None to leave frames as they are; mode: of the
    interpolation, bicubic or bilinear; crop: (height, width) cut out of the middle, or None; factor: what 0..255 is
    multiplied by; mean, std: of each channel, behind that.
    """

    size: tuple[int, int] | int | None
    mode: str
    crop: tuple[int, int] | None
    factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, processor: Any) -> FrameSettings:
        """The settings of a CLIP or SigLIP image processor, or of LLaVA-OneVision's video processor.

        Raises ValueError for another processor, and for a setting that cannot be reproduced here.
        """
        kind = type(processor).__name__
        if kind.removesuffix("Pil") not in _PROCESSORS:
            raise _refusal(processor, f"its class is not one of {', '.join(_PROCESSORS)}")
        for name in _UNSERVED:
            if getattr(processor, name, None):
                raise _refusal(processor, f"it has {name}={getattr(processor, name)!r}")
        size, mode = None, _MODES[3]
        if getattr(processor, "do_resize", None):
            size = _size(processor, processor.size)
            resample = getattr(processor.resample, "value", processor.resample)
            mode = resample if resample in _MODES.values() else _MODES.get(resample)
            if mode is None:
                raise _refusal(processor, f"it has resample={processor.resample!r}; expected bilinear or bicubic")
        crop = None
        if getattr(processor, "do_center_crop", None):
            crop = processor.crop_size["height"], processor.crop_size["width"]
            least = (size, size) if isinstance(size, int) else size
            if least is None or least[0] < crop[0] or least[1] < crop[1]:
                raise _refusal(processor, f"it pads frames of size {size} to a crop of {crop}")
        factor = processor.rescale_factor if getattr(processor, "do_rescale", None) else 1.0
        normalises = getattr(processor, "do_normalize", None)
        mean, std = (processor.image_mean, processor.image_std) if normalises else (0.0, 1.0)
        return cls(size, mode, crop, float(factor), _channels(mean), _channels(std))

    def __call__(
        self, frames: np.ndarray | Tensor, device: torch.device | str, dtype: torch.dtype, chunk_bytes: int = _CHUNK
    ) -> Tensor:
        """Pixels [T, 3, h, w] in `dtype` on `device` of frames [T, H, W, 3] uint8.

        chunk_bytes: frames worked on at a time, in float32 before they are resized; one frame at least.
        Raises ValueError for frames of another shape or dtype, or none.
        """
        frames = torch.from_numpy(np.ascontiguousarray(frames)) if isinstance(frames, np.ndarray) else frames
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.shape[0] < 1 or frames.dtype != torch.uint8:
            raise ValueError(f"frames {tuple(frames.shape)} {frames.dtype}: expected [T, H, W, 3] uint8, T from 1 on")
        count, height, width, _ = frames.shape
        step = max(1, chunk_bytes // (4 * 3 * height * width))
        parts = [self._chunk(frames[at : at + step].to(device)).to(dtype) for at in range(0, count, step)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _chunk(self, frames: Tensor) -> Tensor:
        pixels = frames.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        height, width = self._resized(pixels.shape[2], pixels.shape[3])
        for size in ((pixels.shape[2], width), (height, width)):  # as PIL, which skips a side that keeps its length
            if size != pixels.shape[2:]:
                resized = functional.interpolate(pixels, size=size, mode=self.mode, antialias=True)
                pixels = resized.add_(0.5).floor_().clamp_(0, 255)
        if self.crop is not None:
            top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
            pixels = pixels[:, :, top : top + self.crop[0], left : left + self.crop[1]]
        mean, std = (pixels.new_tensor(each)[:, None, None] for each in (self.mean, self.std))
        return pixels.mul(self.factor).sub_(mean).div_(std)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.size is None:
            return height, width
        if isinstance(self.size, tuple):
            return self.size
        short, long = sorted((height, width))
        long = int(self.size * long / short)
        return (long, self.size) if width <= height else (self.size, long)


def frames_on(asked: str, processor: Any, device: torch.device | str) -> FrameSettings | None:
    """Settings by which frames become pixels; None where the processor itself is to make them ("exact").

    "device" asks for the device, "auto" for it on a GPU where the processor can be reproduced. Raises ValueError for
    another word, and where "device" asks for what cannot be reproduced.
    """
    check_route(asked, (AUTO, *ROUTES))
    if asked == "exact" or (asked == AUTO and torch.device(device).type == "cpu"):
        return None
    try:
        return FrameSettings.of(processor)
    except ValueError:
        if asked == AUTO:
            return None
        raise


def pixels_of(
    frames: np.ndarray, processor: Any, settings: FrameSettings | None, device: torch.device | str, dtype: torch.dtype
) -> Tensor:
    """Pixels [T, 3, S, S] of frames [T, H, W, 3] uint8, by the settings or, where they are None, the processor."""
    if settings is not None:
        return settings(frames, device, dtype)
    return processor.preprocess(frames, return_tensors="pt")["pixel_values"].to(device, dtype)


def _size(processor: Any, size: Any) -> tuple[int, int] | int:
    given = {key: value for key, value in dict(size).items() if value is not None}
    if set(given) == {"height", "width"}:
        return given["height"], given["width"]
    if set(given) == {"shortest_edge"}:
        return given["shortest_edge"]
    raise _refusal(processor, f"it has size={given}; expected height and width, or shortest_edge")


def _channels(value: float | Sequence[float]) -> tuple[float, float, float]:
    return (value,) * 3 if isinstance(value, int | float) else tuple(map(float, value))


def _refusal(processor: Any, why: str) -> ValueError:
    return ValueError(
        f"preprocess='device': {type(processor).__name__} cannot be reproduced on the device, for {why}; "
        "accepted: preprocess='exact'"
    )
