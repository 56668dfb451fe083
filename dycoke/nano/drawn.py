"""Check whether a video looks like those that the embedded model was trained on, which are drawn; see `generator`."""

from __future__ import annotations

import numpy as np

from dycoke.nano.generator.render import _PALETTE

_DIM, _BRIGHT = 170, 185  # of 255: no background is as bright as the first, no colour of an object as dim as the second
_MOSTLY_DIM = 0.88  # share of the pixels: objects, signs and the lamp cover less than the rest
_IN_PALETTE, _NEAR = 0.8, 40  # share of the bright pixels, and how far the codec may move a colour
_CLOUDS = 12.0  # least spread of the background's hues
_SMOOTH = 0.2  # most that neighbours differ in hue, of that spread
_FRAMES, _SIDE = 32, 256  # as many frames and pixels in a line are looked at


def is_drawn(frames: np.ndarray) -> bool:
    """Whether frames [T, H, W, 3] uint8 are a scene of the generator, of any level, by their pixels alone.

    Such frames are square and mostly dim clouds of several hues, smooth where they have no edges; what is bright has
    one of a dozen colours. Told apart from other videos by thresholds, so that one made to look alike passes.
    """
    if frames.shape[1] != frames.shape[2]:
        return False
    step = -(-frames.shape[1] // _SIDE)
    pixels = frames[:: -(-len(frames) // _FRAMES), ::step, ::step].astype(np.int16)
    brightest = pixels.max(-1)
    if (brightest < _DIM).mean() < _MOSTLY_DIM or not _has_clouds(pixels):
        return False
    return _in_palette(pixels[brightest >= _BRIGHT])


def _has_clouds(pixels: np.ndarray) -> bool:
    """Whether hues vary over the picture, and little between neighbours; grey noise and clutter have no hue."""
    hues = np.stack([pixels[..., 0] - pixels[..., 1], pixels[..., 1] - pixels[..., 2]])
    spread = hues.std(axis=(1, 2, 3)).max()
    return bool(spread >= _CLOUDS and np.abs(np.diff(hues, axis=-1)).mean() <= _SMOOTH * spread)


def _in_palette(colours: np.ndarray) -> bool:
    """Whether most colours [N, 3] are those that things are drawn in; of none, True."""
    palette = np.array(_PALETTE[1:], dtype=np.int16)
    off = np.abs(colours[:, None] - palette).max(-1).min(-1)
    return not len(colours) or bool((off <= _NEAR).mean() >= _IN_PALETTE)
