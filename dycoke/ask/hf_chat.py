"""LLaVA-OneVision checkpoints in transformers' own format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from torch import nn
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerBase

from dycoke.ask.chat import Placement

_NAMED = 4  # tensors an error names before it only counts them


@dataclass(frozen=True)
class OnevisionChat:
    """LlavaOnevisionForConditionalGeneration and its processor."""

    model: nn.Module
    processor: Any

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.processor.tokenizer

    @property
    def placeholders(self) -> tuple[str, ...]:
        return (self.processor.image_token, self.processor.video_token)

    @property
    def context(self) -> int:
        return self.model.config.text_config.max_position_embeddings

    def request(self, frames: np.ndarray, question: str) -> dict[str, Any]:
        content = [{"type": "video"}, {"type": "text", "text": question}]
        prompt = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = self.processor(text=prompt, videos=[frames], return_tensors="pt")
        return dict(inputs.to(self.model.device, self.model.dtype))


def load(name: str, where: Placement) -> OnevisionChat:
    """Load a checkpoint that transformers wrote.

    Raises OSError if files are missing, ValueError for missing or misshapen tensors, a damaged weight file, or a
    processor without a chat template.
    """
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)  # False refuses, None would ask
    if processor.chat_template is None:
        raise ValueError(f"{name}: its processor has no chat template, which the prompt is made from")
    try:
        model, loaded = LlavaOnevisionForConditionalGeneration.from_pretrained(
            name,
            dtype=where.dtype,
            device_map=where.device,
            attn_implementation="sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in one line with the missing ones
        )
    except SafetensorError as error:
        raise ValueError(f"{name}: a weight file is truncated or no safetensors file: {error}") from error
    _check(name, "missing", sorted(loaded["missing_keys"]))
    _check(name, "misshapen", sorted(str(key[0]) for key in loaded["mismatched_keys"]))
    return OnevisionChat(model.eval(), processor)


def _check(name: str, kind: str, tensors: list[str]) -> None:
    if tensors:
        listed = ", ".join(tensors[:_NAMED]) + (", ..." if len(tensors) > _NAMED else "")
        raise ValueError(f"checkpoint {name}: {len(tensors)} {kind} tensors ({listed})")
