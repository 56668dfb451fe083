"""What codecs, cameras and resizing do to frames, roughly and on the device, so that mp4 files look familiar."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dycoke.nano.generator.constants import constant

_BLUR = 0.2
_CHROMA_SHARE = 0.5
_CONTRAST = 0.08
_BRIGHTNESS = 0.04
_GRAIN = 0.02

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def _row_uniform(rows: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(rows, device=generator.device, generator=generator)
    return (low + (high - low) * drawn)[:, None, None, None, None]


def _blurred(pixels: Tensor, strength: Tensor) -> Tensor:
    """Each axis convolved with (s, 1 - 2s, s); strength [B, 1, 1, 1, 1]."""
    for dim in (-1, -2):
        size = pixels.shape[dim]
        before = torch.cat([pixels.narrow(dim, 0, 1), pixels.narrow(dim, 0, size - 1)], dim)
        after = torch.cat([pixels.narrow(dim, 1, size - 1), pixels.narrow(dim, size - 1, 1)], dim)
        pixels = pixels + strength * (before + after - 2 * pixels)
    return pixels


def _coarse_chroma(pixels: Tensor, rows: Tensor) -> Tensor:
    """Colour at half the resolution of brightness in the chosen rows, bool [B, 1, 1, 1, 1].

    Smoothing everything and giving back the brightness it took smooths the two colour differences alone.
    """
    luma = constant(_LUMA, pixels.device, pixels.dtype)[:, None, None]
    smooth = F.interpolate(F.avg_pool2d(pixels.flatten(0, 1), 2), scale_factor=2.0, mode="bilinear")
    lost = smooth.view_as(pixels) - pixels
    return pixels + rows * (lost - (lost * luma).sum(2, keepdim=True))


def degrade(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Frames [B, F, 3, S, S] in [0, 1] -> the same, blurred, recoloured and grained, each row by its own strength.

    Rounded to 8 bits, as decoded frames are. `generator` must live on the device of the pixels.
    """
    rows = pixels.shape[0]
    pixels = _coarse_chroma(pixels, _row_uniform(rows, 0, 1, generator) < _CHROMA_SHARE)
    pixels = _blurred(pixels, _row_uniform(rows, 0, _BLUR, generator))
    contrast = _row_uniform(rows, 1 - _CONTRAST, 1 + _CONTRAST, generator)
    pixels = pixels * contrast + _row_uniform(rows, -_BRIGHTNESS, _BRIGHTNESS, generator)
    grain = torch.randn(pixels.shape, device=pixels.device, generator=generator)
    pixels = pixels + grain * _row_uniform(rows, 0, _GRAIN, generator)
    return to_bytes(pixels)


def to_bytes(pixels: Tensor) -> Tensor:
    """Clamped to [0, 1] and rounded to multiples of 1/255."""
    return (pixels.clamp(0, 1) * 255).round() / 255


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]."""
    return pixels.float() / 255


def normalise(pixels: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1], as SigLIP's processor does."""
    return pixels * 2 - 1
