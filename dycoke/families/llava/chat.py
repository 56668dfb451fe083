"""Checkpoints in LLaVA-NeXT format, through our `llava` package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dycoke.families.chat import Placement
from dycoke.families.llava.adapter import tokens_per_frame
from dycoke.families.requests import requests_of
from dycoke.video.pixels import FrameSettings, frames_on, pixels_of
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.context import readable
from llava.conversation import conv_templates
from llava.mm_utils import get_model_name_from_path, tokenizer_image_token
from llava.model import LlavaQwenForCausalLM
from llava.model.builder import load_pretrained_model
from llava.model.layout import pool_frames
from llava.model.model_config import build_config, model_class_for
from llava.model.multimodal_encoder.vision_config import tower_config


@dataclass(frozen=True)
class LlavaChat:
    """LlavaQwenForCausalLM or LlavaLlamaForCausalLM, with the conversation template its family was trained on.

    on_device: how frames become pixels on the model's device; None leaves them to the image processor.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    image_processor: Any
    template: str
    on_device: FrameSettings | None = None

    placeholders: ClassVar[tuple[str, ...]] = (DEFAULT_IMAGE_TOKEN,)

    @property
    def context(self) -> int | None:
        return requests_of(self.model).context

    @property
    def per_frame(self) -> int:
        return tokens_per_frame(self.model)

    def text_tokens(self, request: dict[str, Any]) -> int:
        return request["inputs"].shape[1] - 1

    def request(self, frames: np.ndarray, question: str) -> dict[str, Any]:
        conversation = conv_templates[self.template].copy()
        conversation.append_message(conversation.roles[0], f"{DEFAULT_IMAGE_TOKEN}\n{question}")
        conversation.append_message(conversation.roles[1], None)
        ids = tokenizer_image_token(conversation.get_prompt(), self.tokenizer, IMAGE_TOKEN_INDEX, "pt")
        ids = cast(Tensor, ids)[None].to(self.model.device)
        pixels = pixels_of(frames, self.image_processor, self.on_device, self.model.device, self.model.dtype)
        return {
            "inputs": ids,
            "attention_mask": torch.ones_like(ids),
            "images": [pixels],
            "modalities": ["video"],
            "eos_token_id": self._ends(),
        }

    def _ends(self) -> list[int]:
        """Ids that end an answer: the tokenizer's end of a turn, and what the checkpoint adds to it."""
        given = self.model.generation_config.eos_token_id
        given = given if isinstance(given, list) else [given]
        return sorted({self.tokenizer.eos_token_id, *given} - {None})


def lengths(name: str, config: dict[str, Any]) -> tuple[int | None, int]:
    """Tokens of the longest prompt and of a frame, by a checkpoint's config.json. Raises ValueError as loading does."""
    built = build_config(model_class_for(config, get_model_name_from_path(name), name), config, None)
    vision = tower_config(built)
    side = vision.image_size // vision.patch_size
    mode = getattr(built, "mm_spatial_pool_mode", "average")
    # One channel of zeros through the models' own pooling: the count then has no second definition.
    pooled, _ = pool_frames(torch.zeros(1, side * side, 1), side, mode)
    return readable(built), pooled.shape[1]


def load(name: str, where: Placement, preprocess: str = "exact") -> LlavaChat:
    """Load a LLaVA-NeXT checkpoint; raises as `load_pretrained_model` and `frames_on` do."""
    tokenizer, model, image_processor, _ = load_pretrained_model(
        name,
        None,
        get_model_name_from_path(name),
        device_map=where.device,
        torch_dtype=where.dtype,
        attn_implementation="sdpa",
    )
    template = "qwen_1_5" if isinstance(model, LlavaQwenForCausalLM) else "vicuna_v1"
    on_device = frames_on(preprocess, image_processor, where.device)
    return LlavaChat(model, tokenizer, image_processor, template, on_device)
