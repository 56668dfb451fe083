"""lmms-eval's `llava_onevision` with a method, a dtype and batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from lmms_eval.models.simple.llava_onevision import Llava_OneVision

from dycoke.eval.models.answering import Asked
from dycoke.eval.models.arguments import builtin_defaults, split_arguments
from dycoke.eval.models.generation import as_given
from dycoke.eval.models.llava import LlavaModel
from dycoke.video.frames import read_frames
from dycoke.video.reading import INDEX, PYAV, check_reader
from llava.constants import DEFAULT_IMAGE_TOKEN


class LlavaOnevision(LlavaModel, Llava_OneVision):
    """The built-in model, to the letter, unless a method, a dtype, samples or a batch size above 1 is asked for."""

    generation = staticmethod(as_given)

    def __init__(self, **given: Any) -> None:
        arguments = split_arguments(given, Llava_OneVision)
        if not arguments.ours:
            super().__init__(**arguments.builtin)
            return
        settings = builtin_defaults(Llava_OneVision) | dict(arguments.builtin)
        for option in ("token_strategy", "max_frames_num", "mm_spatial_pool_stride", "mm_spatial_pool_mode"):
            setattr(self, option, settings[option])
        check_reader(arguments.reader or arguments.builtin.get("video_decode_backend", PYAV))
        pooling = {key: settings[key] for key in ("mm_spatial_pool_stride", "mm_spatial_pool_mode")}
        self.load(arguments, settings, pooling)

    def clip(self, visuals: list[str]) -> np.ndarray:
        reader = getattr(self, "reader", self.video_decode_backend)
        return read_frames(visuals[0], self.max_frames_num, reader=reader, sampling=getattr(self, "sampling", INDEX))

    def answer_alone(self, asked: Asked) -> str:
        """What the built-in class answers, which leaves the aspect ratio of several pictures on the config."""
        ratio = getattr(self._config, "image_aspect_ratio", None)
        try:
            return super().answer_alone(asked)
        finally:
            if ratio is not None:
                self._config.image_aspect_ratio = ratio

    def question(self, clip: np.ndarray, context: str) -> str:
        if DEFAULT_IMAGE_TOKEN in context:
            return context
        count = len(clip) if self.token_strategy == "multiple" else 1
        return " ".join([DEFAULT_IMAGE_TOKEN] * count) + "\n" + context
