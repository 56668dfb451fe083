"""Videos that were encoded before: several questions about one, or several methods, encode it once."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING

import torch

from dycoke.types import Plan

if TYPE_CHECKING:
    from torch import Tensor

_OF_THE_TOWER = frozenset({"saliency", "keys"})


class EncoderCache:
    """Stands in for a llava model's `encode_images`, and keeps what it made of the last `videos` inputs.

    An input is known again by its pixels, so answers are the same with and without. What is kept, the projected tokens
    before pooling, stays on the device. A request whose video is found
    has no stage "vision", and its time is None in the records. Methods that watch the tower at work, for its saliency
    or keys, have every video encoded.
    """

    def __init__(self, model: torch.nn.Module, videos: int):
        """Raises ValueError if videos < 1."""
        if videos < 1:
            raise ValueError(f"videos={videos}: expected at least 1")
        self.videos = videos
        self.watched = False
        self._encode = model.encode_images
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        model.encode_images = self

    def follow(self, plan: Plan) -> None:
        """Serve a model that carries this plan from now on."""
        self.watched = plan.before is not None and bool(plan.before.needs & _OF_THE_TOWER)

    def __call__(self, images: Tensor) -> Tensor:
        """Projected tokens [F, P, D] of pixels [F, 3, S, S]; not to be written into."""
        if self.watched:
            return self._encode(images)
        key = _digest(images)
        if key not in self._kept:
            self._kept[key] = self._encode(images)
        self._kept.move_to_end(key)
        encoded = self._kept[key]
        if len(self._kept) > self.videos:
            self._kept.popitem(last=False)
        return encoded


def _digest(images: Tensor) -> bytes:
    pixels = images.detach().cpu().contiguous()
    head = f"{tuple(pixels.shape)} {pixels.dtype}".encode()
    return blake2b(pixels.view(torch.uint8).numpy(), key=blake2b(head).digest()).digest()
