"""The pooling of video frames in transformers' LLaVA-OneVision, in the layout its tokens have already.

The model first copies its tokens to a plane per channel. Torch resizes planes with a thread for each place of a frame,
196 of them for everything, which is most of what stock `generate` takes beside its stages up to the first token. With
channels last it has a thread for each number.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import LlavaOnevisionModel

from llava.model.layout import pool_frames

MODELS = (LlavaOnevisionModel,)
METHOD = "apply_pooling"


class FramePooling:
    """`apply_pooling` of a model: features [T, side * side, D] -> [T, rows * cols, D]."""

    def __init__(self, model: nn.Module) -> None:
        vision = model.config.vision_config
        self._side = vision.image_size // vision.patch_size
        self._unserved = ""
        if getattr(type(model), METHOD, None) is not getattr(LlavaOnevisionModel, METHOD):
            self._unserved = f"a {type(model).__name__} pools in a way of its own"

    def unserved(self) -> str:
        """Reason why the model pools as it is, "" if it is sped up."""
        return self._unserved

    def serves(self, kwargs: dict[str, Any]) -> bool:
        """Whether `run` computes what the stock method does for these arguments, by name."""
        features = kwargs.get("image_features")
        whole = isinstance(features, Tensor) and features.ndim == 3 and features.shape[1] == self._side**2
        return whole and not self._unserved

    def run(self, kwargs: dict[str, Any]) -> Tensor:
        """Output of the stock method."""
        return pool_frames(kwargs["image_features"], self._side, "bilinear")[0]
