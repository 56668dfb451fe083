"""Requests of transformers' LlavaOnevisionForConditionalGeneration, as its processor writes them for one prompt."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dycoke.bases import Before
from dycoke.families.requests import Length, Request, kept, padded, prompt_ids
from llava.context import readable

_ROW = frozenset({"input_ids", "attention_mask", "pixel_values_videos"})
_PICTURES = frozenset({"pixel_values", "image_sizes", "batch_num_images"})


class OnevisionRequests:
    """Videos of a batch have as many frames each; a request with pictures stands alone."""

    names: ClassVar[frozenset[str]] = _ROW | _PICTURES

    def __init__(self, model: nn.Module) -> None:
        self.context = readable(model.config.text_config)
        self.per_frame, self.newline = frame_tokens(model.config), None
        self._video_id, self._device = model.config.video_token_id, model.device

    def video(self, frames: int, before: Before) -> Length:
        return kept(before, frames, self.per_frame) + 1

    def length(self, request: Request, before: Before) -> Length:
        ids, pixels = prompt_ids(request, "input_ids"), request.get("pixel_values_videos")
        videos, frames = (0, 0) if pixels is None else pixels.shape[:2]
        visual = int((ids == self._video_id).sum())
        expected = videos * (frames * self.per_frame + 1)
        if visual != expected:
            raise ValueError(
                f"{visual} <video> ids for {videos} videos of {frames} frames; expected {expected}, as the processor "
                "of this family writes them"
            )
        each = self.video(frames, before)
        return Length(videos * each.least, videos * each.most) + (len(ids) - visual)

    def kind(self, request: Request) -> Hashable:
        if any(request.get(name) is not None for name in _PICTURES):
            return None
        pixels = request.get("pixel_values_videos")
        return "text" if pixels is None else tuple(pixels.shape[1:])

    def together(self, requests: Sequence[Request], pad: int) -> dict[str, Any]:
        ids, mask = padded([prompt_ids(each, "input_ids") for each in requests], pad, self._device)
        names = [name for name in requests[0] if name in self.names - {"input_ids", "attention_mask"}]
        shown = {name: torch.cat([each[name].to(self._device) for each in requests]) for name in names}
        return {"input_ids": ids, "attention_mask": mask, **shown}

    def new(self, out: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        return out[:, inputs["input_ids"].shape[1] :]


def frame_tokens(config: Any) -> int:
    """Visual tokens that a model of this config makes of a frame."""
    vision = config.vision_config
    return math.ceil(vision.image_size // vision.patch_size / 2) ** 2


REQUESTS = OnevisionRequests
