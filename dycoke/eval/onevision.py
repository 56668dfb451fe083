"""lmms-eval's `llava_onevision` with a method, a dtype and batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_eval.models.simple.llava_onevision import Llava_OneVision

from dycoke.eval.answering import Clip
from dycoke.eval.arguments import builtin_defaults, split_arguments
from dycoke.eval.frame_folder import read_shown
from dycoke.eval.generation import as_given
from dycoke.eval.llava_model import LlavaModel
from llava.constants import DEFAULT_IMAGE_TOKEN


class LlavaOnevision(LlavaModel, Llava_OneVision):
    """The built-in model, to the letter, unless a method, a dtype, samples or a batch size above 1 is asked for."""

    def __init__(self, **given: Any) -> None:
        arguments = split_arguments(given, Llava_OneVision)
        if not arguments.ours:
            super().__init__(**given)
            return
        settings = builtin_defaults(Llava_OneVision) | dict(arguments.builtin)
        for option in ("token_strategy", "max_frames_num", "mm_spatial_pool_stride", "mm_spatial_pool_mode"):
            setattr(self, option, settings[option])
        pooling = {key: settings[key] for key in ("mm_spatial_pool_stride", "mm_spatial_pool_mode")}
        self.load(arguments, settings, pooling)

    def clip(self, visuals: list[str]) -> Clip:
        return Clip(read_shown(visuals[0], self.max_frames_num))

    def question(self, clip: Clip, context: str) -> str:
        if DEFAULT_IMAGE_TOKEN in context:
            return context
        count = len(clip.frames) if self.token_strategy == "multiple" else 1
        return " ".join([DEFAULT_IMAGE_TOKEN] * count) + "\n" + context

    def generation(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return as_given(given)
