"""Requests of our `llava` package: inputs [1, L] with -200 where an entry of `images` stands, and its modalities."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from dycoke.bases import Before
from dycoke.families.llava.adapter import tokens_per_frame
from dycoke.families.requests import Length, Request, kept, padded, prompt_ids
from llava.constants import IMAGE_TOKEN_INDEX
from llava.context import readable
from llava.model.visual import image_entries, newline_layout


class LlavaRequests:
    """LlavaQwenForCausalLM and LlavaLlamaForCausalLM. Videos of a batch may differ in their frames."""

    names: ClassVar[frozenset[str]] = frozenset(
        {"inputs", "input_ids", "attention_mask", "images", "image_sizes", "modalities"}
    )

    def __init__(self, model: nn.Module) -> None:
        self.context = readable(model.config)
        self.per_frame = tokens_per_frame(model)
        self._side = model.get_vision_tower().num_patches_per_side
        self.newline = newline_layout(model)
        self._device = model.device

    def video(self, frames: int, before: Before) -> Length:
        length = kept(before, frames, self.per_frame)
        if self.newline in ("grid", "frame"):  # one of each row or frame of which a token is left
            ends = frames * (math.isqrt(self.per_frame) if self.newline == "grid" else 1)
            return Length(length.least, length.most + min(ends, length.most))
        return length + (self.newline == "one_token")

    def length(self, request: Request, before: Before) -> Length:
        """Pictures count as all their tiles' tokens, with a newline for each of their rows."""
        ids, entries = prompt_ids(request, "inputs", "input_ids"), self._entries(request)
        places = int((ids == IMAGE_TOKEN_INDEX).sum())
        if places != len(entries):
            raise ValueError(f"{places} placeholders for {len(entries)} images; expected one each")
        text = len(ids) - places
        least = most = text
        for entry, modality in zip(entries, self._modalities(request), strict=True):
            length = Length(0, len(entry) * self._side * (self._side + 1))
            if modality == "video":
                length = self.video(len(entry), before)
            least, most = least + length.least, most + length.most
        return Length(least, max(least, min(most, self.context)))  # a longer one is not read

    def kind(self, request: Request) -> Hashable:
        return "shown" if request.get("images") is not None else "text"

    def together(self, requests: Sequence[Request], pad: int) -> dict[str, Any]:
        ids, mask = padded([prompt_ids(each, "inputs", "input_ids") for each in requests], pad, self._device)
        inputs: dict[str, Any] = {"inputs": ids, "attention_mask": mask}
        if requests[0].get("images") is not None:
            inputs["images"] = [entry for each in requests for entry in each["images"]]
            inputs["modalities"] = [modality for each in requests for modality in self._modalities(each)]
            inputs["image_sizes"] = [
                size for each in requests for size in each.get("image_sizes") or [None] * len(each["images"])
            ]
        return inputs

    def new(self, out: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        return out

    def _entries(self, request: Request) -> list[Tensor]:
        images = request.get("images")
        if images is None:
            return []
        if isinstance(images, Tensor) and images.ndim == 4:
            raise ValueError("images is one tensor of 4 dimensions; expected a list with a tensor for each of them")
        return image_entries(images)

    def _modalities(self, request: Request) -> list[str]:
        given = request.get("modalities", ())
        given = [given] if isinstance(given, str) else list(given)
        count = len(self._entries(request))
        return [*given, *["image"] * count][:count]


REQUESTS = LlavaRequests
