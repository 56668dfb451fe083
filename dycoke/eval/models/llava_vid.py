"""lmms-eval's `llava_vid` with a method, a dtype and batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from lmms_eval.models.simple.llava_vid import LlavaVid
from transformers import AutoConfig

from dycoke.eval.models.answering import Asked
from dycoke.eval.models.arguments import builtin_defaults, split_arguments
from dycoke.eval.models.generation import greedy_or_sampled
from dycoke.eval.models.llava import LlavaModel
from dycoke.video.frames import read_chosen, reader_of
from dycoke.video.reading import INDEX, PYAV, check_reader
from dycoke.video.timeline import at_rate, evenly

_UNREADABLE = "can not load, check the source"  # how the built-in model's answer about a video it cannot read ends
_TEXT_TOKENS = 1000  # what the built-in model leaves for the text where it stretches a short context
_SHORT_CONTEXT = 4096
_PICTURES = "image"  # the built-in model's backend for a list of pictures


class LlavaVideo(LlavaModel, LlavaVid):
    """The built-in model, to the letter, unless a method, a dtype, samples or a batch size above 1 is asked for."""

    generation = staticmethod(greedy_or_sampled)

    def __init__(self, **given: Any) -> None:
        arguments = split_arguments(given, LlavaVid)
        if not arguments.ours:
            super().__init__(**arguments.builtin)
            return
        settings = builtin_defaults(LlavaVid) | dict(arguments.builtin)
        reader = arguments.reader or arguments.builtin.get("video_decode_backend", PYAV)
        if reader != _PICTURES:
            check_reader(reader)
        self.max_frames_num, self.fps = int(settings["max_frames_num"]), int(settings["video_fps"])
        self.force_sample, self.add_time_instruction = settings["force_sample"], settings["add_time_instruction"]
        self.torch_dtype = arguments.dtype or settings["torch_dtype"]
        self.load(arguments, settings, _overwritten(settings) if settings["overwrite"] else {})

    def clip(self, visuals: list[str]) -> np.ndarray | None:
        """Frames at `fps`, or as many as wanted where that gives too many; None for what the built-in model reads.

        Pictures have no rate, and give as many as wanted, as does sampling="time".
        """
        if self.add_time_instruction or len(visuals) > 1 or self.reader == _PICTURES:
            return None
        choose = at_rate(self.fps, self.max_frames_num, self.force_sample)
        if self.sampling != INDEX or reader_of(visuals[0], self.reader) != self.reader:
            choose = evenly(self.max_frames_num, self.sampling)
        return read_chosen(visuals[0], choose, reader=self.reader)

    def answer_alone(self, asked: Asked) -> str:
        text = super().answer_alone(asked)
        if text.startswith("Video ") and text.endswith(_UNREADABLE):
            shown = ", ".join(map(str, asked.visuals(self.task_dict)))
            raise ValueError(f"{shown}: the built-in model can not load it")
        return text


def _overwritten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the built-in model changes in a checkpoint's config."""
    stride = int(settings["mm_spatial_pool_stride"])
    changed = {
        "mm_spatial_pool_stride": stride,
        "mm_spatial_pool_mode": settings["mm_spatial_pool_mode"],
        "mm_pooling_position": settings["mm_resampler_location"],
        "mm_newline_position": settings["mm_newline_position"],
        "delay_load": settings["delay_load"],
    }
    name = settings["pretrained"].lower()
    if "vicuna" in name or "yi" in name:  # its language models read 4096 tokens
        side = 16 if "224" in AutoConfig.from_pretrained(settings["pretrained"]).mm_vision_tower else 24
        tokens = int(settings["max_frames_num"]) * (side // stride) ** 2 + _TEXT_TOKENS
        factor = math.ceil(tokens / _SHORT_CONTEXT)
        if factor >= 2:
            changed["rope_scaling"] = {"factor": float(factor), "type": "linear"}
            changed["max_sequence_length"] = changed["tokenizer_model_max_length"] = _SHORT_CONTEXT * factor
    return changed
