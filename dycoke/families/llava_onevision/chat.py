"""LLaVA-OneVision checkpoints in transformers' own format."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from dycoke.families.chat import Placement
from dycoke.families.llava_onevision.requests import frame_tokens
from dycoke.families.requests import requests_of
from dycoke.video.pixels import FrameSettings, frames_on
from llava.context import readable
from llava.model.builder import skeleton_of
from llava.model.checkpoint import local_folder, tensor_shapes
from llava.model.config_checks import check_config, check_depth
from llava.model.model_config import DAMAGED
from llava.model.tokenizer_files import check_special_tokens, check_tokenizer_files, markers_in, read_object

_NAMED = 4  # tensors an error names before it only counts them


@dataclass(frozen=True)
class OnevisionChat:
    """LlavaOnevisionForConditionalGeneration and its processor.

    on_device: how frames become pixels on the model's device; None leaves them to the processor.
    """

    model: nn.Module
    processor: Any
    on_device: FrameSettings | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.processor.tokenizer

    @property
    def placeholders(self) -> tuple[str, ...]:
        return (self.processor.image_token, self.processor.video_token)

    @property
    def context(self) -> int | None:
        return requests_of(self.model).context

    @property
    def per_frame(self) -> int:
        return requests_of(self.model).per_frame

    def text_tokens(self, request: dict[str, Any]) -> int:
        return int((request["input_ids"] != self.model.config.video_token_id).sum())

    def request(self, frames: np.ndarray, question: str) -> dict[str, Any]:
        content = [{"type": "video"}, {"type": "text", "text": question}]
        prompt = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return self.inputs([prompt], [frames])

    def inputs(self, prompts: Sequence[str], videos: Sequence[np.ndarray]) -> dict[str, Any]:
        """Keyword arguments of `model.generate` for prompts with one placeholder of a video each, as a padded batch.

        videos: frames [T, H, W, 3] uint8 of each, of equal T.
        """
        device, dtype = self.model.device, self.model.dtype
        if self.on_device is None:
            inputs = self.processor(text=list(prompts), videos=list(videos), padding=True, return_tensors="pt")
            return dict(inputs.to(device, dtype))
        placeholder = self.processor.video_token
        texts = [  # a video ends in one newline, which has a placeholder too
            prompt.replace(placeholder, placeholder * (len(video) * self.per_frame + 1))
            for prompt, video in zip(prompts, videos, strict=True)
        ]
        pixels = torch.stack([self.on_device(video, device, dtype) for video in videos])
        return {
            **self.tokenizer(texts, padding=True, return_tensors="pt").to(device),
            "pixel_values_videos": pixels,
        }


def lengths(name: str, config: dict[str, Any]) -> tuple[int | None, int]:
    """Tokens of the longest prompt and of a frame, by config.json. Raises ValueError if it is no config."""
    check_config(config, f"{name}: config.json")
    try:
        built = LlavaOnevisionConfig.from_dict(config)
        return readable(built.text_config), frame_tokens(built)
    except DAMAGED as error:
        raise ValueError(f"{name}: damaged configuration: {type(error).__name__}: {error}") from error


def load(name: str, where: Placement, attention: str = "sdpa", preprocess: str = "exact") -> OnevisionChat:
    """Load a checkpoint that transformers wrote.

    Raises OSError if files are missing, ValueError for missing or misshapen tensors, a damaged file, or a processor
    without a chat template, and what `frames_on` raises.
    """
    folder = local_folder(name)
    shapes = tensor_shapes(folder)  # names a damaged weight file, where transformers fails in many ways
    content = read_object(folder / "config.json")
    check_config(content, f"{name}: config.json")
    check_depth(content, len(shapes), name)
    check_tokenizer_files(folder)
    try:
        skeleton_of(LlavaOnevisionForConditionalGeneration, LlavaOnevisionConfig.from_dict(content), name)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)  # False refuses, None would ask
        model, loaded = LlavaOnevisionForConditionalGeneration.from_pretrained(
            folder,
            dtype=where.dtype,
            device_map=where.device,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in one line with the missing ones
        )
    except DAMAGED as error:
        raise ValueError(f"{name}: damaged configuration: {type(error).__name__}: {error}") from error
    if processor.chat_template is None:
        raise ValueError(f"{name}: its processor has no chat template, which the prompt is made from")
    _check_tokens(name, folder, processor, model.config)
    _own_sampling_off(name, processor.video_processor)
    _check(name, "missing", sorted(loaded["missing_keys"]))
    _check(name, "misshapen", sorted(str(key[0]) for key in loaded["mismatched_keys"]))
    on_device = frames_on(preprocess, processor.video_processor, model.device)
    return OnevisionChat(model.eval(), processor, on_device)


def _check_tokens(name: str, folder: Path, processor: Any, config: Any) -> None:
    """Raise ValueError unless placeholders and the markers of the template are the tokens they are to be."""
    texts, ids = (processor.image_token, processor.video_token), (config.image_token_id, config.video_token_id)
    check_special_tokens(processor.tokenizer, folder, [*texts, *markers_in(str(processor.chat_template))], ids)
    if tuple(processor.tokenizer.convert_tokens_to_ids(list(texts))) != ids:
        raise ValueError(f"{name}: {' and '.join(texts)} are not the tokens {ids[0]} and {ids[1]} of its config.json")


def _own_sampling_off(name: str, video_processor: Any) -> None:
    """Let a processor take the frames it is given, and say so where its settings would have it choose among them."""
    asked = {key: getattr(video_processor, key, None) for key in ("do_sample_frames", "num_frames", "fps")}
    said = ", ".join(f"{key}={value!r}" for key, value in asked.items() if value)
    if said:
        warnings.warn(
            f"{name}: its video processor's own sampling of frames ({said}) has no effect: --frames or max_frames_num "
            "say which are read",
            stacklevel=3,
        )
        video_processor.do_sample_frames = False


def _check(name: str, kind: str, tensors: list[str]) -> None:
    if tensors:
        listed = ", ".join(tensors[:_NAMED]) + (", ..." if len(tensors) > _NAMED else "")
        raise ValueError(f"checkpoint {name}: {len(tensors)} {kind} tensors ({listed})")
