"""Adapter of our `llava` package: compression between pooling and newline packing, through its `video_seam`."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dycoke.families.base import FamilyAdapter
from dycoke.fitting import newline_faults, refuse
from dycoke.stages.arguments import expand_rows, from_table
from dycoke.stages.masks import seen_slots
from dycoke.turns import OfThread

if TYPE_CHECKING:
    from llava.model.packing import Packed


class LlavaAdapter(FamilyAdapter):
    """LlavaQwenForCausalLM and LlavaLlamaForCausalLM; the `VideoSeam` of the model it is installed on."""

    provides = frozenset({"saliency", "keys", "query"})
    knows_frames = True
    knows_newlines = True

    # Between packing and the language model.
    _visual: OfThread[Tensor | None] = OfThread(None)
    _newlines: OfThread[Tensor | None] = OfThread(None)
    _places: OfThread[tuple[Tensor, Tensor, int] | None] = OfThread(None)
    _per_frame: OfThread[int] = OfThread(0)
    _whole: OfThread[bool] = OfThread(False)
    _shape: OfThread[tuple[int, int] | None] = OfThread(None)

    def hook(self, model: nn.Module, undo: ExitStack) -> None:
        inner = model.get_model()
        model.video_seam = self
        undo.callback(_leave, weakref.ref(model))
        tower = model.get_vision_tower()
        self.probe_tower(tower.vision_tower, tower.depth, undo)
        self.time_vision(tower, inner.mm_projector, undo)
        self.follow(inner, undo)

    def video(
        self, frames: Tensor, grid: tuple[int, int], newline: str, text: Tensor, rows: slice
    ) -> tuple[Tensor, Tensor]:
        """Compress one video [T, N, D]; see `llava.model.seam`.

        Raises ValueError if the compressor reorders tokens and the layout has newlines inside the video.
        """
        refuse(newline_faults(self.compressor, newline))
        self._per_frame = frames.shape[1]
        kept = self.compress(frames, grid, rows, text)
        return kept.embeds, kept.index

    def release(self) -> None:
        """Forget the tower call that is remembered."""
        if self._probe is not None:
            self._probe.forget()

    def packed(self, packed: Packed) -> Tensor | None:
        """RoPE positions of the packed batch: the tokens' own, or None for consecutive ones."""
        self._visual, self._newlines, self._whole = packed.visual, packed.newlines, not packed.padded
        per_frame, self._per_frame = self._per_frame, 0
        self._places = (packed.video, packed.slots, per_frame) if per_frame else None
        return packed.positions if self.compressor.positions == "original" else None

    def prefill_inputs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments, without the mask where it says that nothing is padding: it would have to be read for that."""
        embeds = kwargs.get("inputs_embeds")
        whole, self._whole = self._whole, False
        self._shape = None if embeds is None else tuple(embeds.shape[:2])
        # Without a cache, and where positions have gaps, a mask also says that they are those of one sample.
        spoken = self.compressor.positions == "original" or kwargs.get("past_key_values") is None
        mask = kwargs.get("attention_mask")
        if not whole or spoken or self._shape is None or not isinstance(mask, Tensor) or mask.ndim != 2:
            return kwargs
        return {**kwargs, "attention_mask": None}

    def places(self) -> tuple[Tensor, Tensor, int] | None:
        places, self._places = self._places, None
        if places is None or self._shape is None:  # ids: a prompt without images is not packed
            return None
        video, slots, per_frame = places
        return expand_rows(video, self._shape), expand_rows(slots, self._shape), per_frame

    def newlines(self) -> Tensor | None:
        newlines, self._newlines = self._newlines, None
        return None if newlines is None or self._shape is None else expand_rows(newlines, self._shape)

    def language_model(self, model: nn.Module) -> nn.Module:
        return model.get_model()

    def visual(self, kwargs: dict[str, Any], shape: tuple[int, int]) -> Tensor | None:
        visual, self._visual = self._visual, None
        if kwargs.get("inputs_embeds") is None:  # ids: a prompt without images is not packed
            return None
        if visual is None:
            table, real = self._model().get_input_embeddings().weight, seen_slots(kwargs.get("attention_mask"), shape)
            if from_table(kwargs["inputs_embeds"], table, real):
                return None
            raise ValueError(
                "inputs_embeds=: a method needs input_ids and images to find the visual tokens; what "
                "prepare_inputs_labels_for_multimodal returns serves one call; accepted without them: embeddings of "
                "ids alone"
            )
        return expand_rows(visual, shape)

    def forget(self) -> None:
        self._visual = None


def tokens_per_frame(model: nn.Module) -> int:
    """Visual tokens a llava model makes of a frame of video."""
    side = model.get_vision_tower().num_patches_per_side
    # One channel of zeros through the model's own pooling: the count then has no second definition.
    return model.get_2dPool(torch.zeros(1, side * side, 1)).shape[1]


def _leave(model: Callable[[], Any]) -> None:
    if model() is not None:
        del model().video_seam


ADAPTER = LlavaAdapter
