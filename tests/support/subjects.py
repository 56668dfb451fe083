"""Two tiny random models, one of each supported family, behind one face, so that a test is written once.

A prompt is a list of token ids and `Clip`s; a `Clip` stands for a video (or a still picture) in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from llava.constants import IMAGE_TOKEN_INDEX
from tests.llava import tiny

HF_VIDEO, HF_IMAGE = 60, 61


@dataclass(frozen=True)
class Clip:
    """A random video of T frames; frames=None is a still picture."""

    frames: int | None
    seed: int = 0

    def pixels(self, side: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 + self.seed)
        # Frames drift from a common picture, so that similarities differ from place to place.
        base = torch.randn(1, 3, side, side, generator=generator)
        return base + 0.5 * torch.randn(self.frames or 1, 3, side, side, generator=generator).cumsum(0)


PROMPT_FRAMES = 8
V8 = Clip(PROMPT_FRAMES)
PROMPTS = {
    "one_video": [[5, 6, V8, 7, 8, 9]],
    "two_videos": [[5, 6, Clip(8, 1), 3, Clip(8, 2), 7, 8]],
    "videos_side_by_side": [[5, Clip(8, 1), Clip(8, 2), 7]],
    "text": [[5, 6, 9, 4]],
    "batch": [[5, 6, V8, 7, 8, 9], [5, Clip(8, 3), 7, 8, 9, 11, 12, 13], [4, 5, 6], [4, Clip(8, 1), Clip(8, 2), 8]],
}
STILLS = {"image": [[5, 6, Clip(None), 7, 8, 9]]}


def _clips(row: list) -> list[Clip]:
    return [part for part in row if isinstance(part, Clip)]


class LlavaSubject:
    """Our llava package; newline is the layout of a video's tokens."""

    side, grid = 112, (4, 4)
    returns_prompt = False
    loose: ClassVar[dict] = {"strict": False}  # for `generate`: of a batch, rows of text bring a picture

    def __init__(self, newline: str = "one_token", family: str = "qwen") -> None:
        if family == "llama":
            # A LLaVA-1.5 model has no newline vector, and its videos no newline.
            self.model = tiny.make_model(tiny.llama_config(mm_spatial_pool_mode="average"))
        else:
            self.model = tiny.make_model(tiny.onevision_config(mm_newline_position=newline))

    def inputs(self, prompts: list[list]) -> dict:
        # LLaVA-NeXT's packing consumes one entry for a row without a placeholder, so such a row brings a picture.
        clips = [clip for row in prompts for clip in _clips(row) or [Clip(None)]]
        rows = [[IMAGE_TOKEN_INDEX if isinstance(part, Clip) else part for part in row] for row in prompts]
        width = max(map(len, rows))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        if not any(_clips(row) for row in prompts):
            return {"input_ids": padded, "attention_mask": mask}
        return {
            "input_ids": padded,
            "attention_mask": mask,
            "images": [clip.pixels(self.side) if clip.frames else clip.pixels(self.side)[0] for clip in clips],
            "modalities": ["video" if clip.frames else "image" for clip in clips],
            "image_sizes": [(self.side, self.side)] * len(clips),
        }

    def language_model(self):
        return self.model.model


class HFSubject:
    """transformers' LlavaOnevisionForConditionalGeneration, its videos all of one length in a batch."""

    side, grid = 24, (3, 3)
    returns_prompt = True
    loose: ClassVar[dict] = {}

    def __init__(self, **language) -> None:
        ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        config = tiny.hf_config(HF_IMAGE, HF_VIDEO, vocab_size=64, **ids, **language)
        self.model = LlavaOnevisionForConditionalGeneration(config).eval()
        tiny.fill_randomly(self.model)

    def inputs(self, prompts: list[list]) -> dict:
        clips = [clip for row in prompts for clip in _clips(row)]
        rows = [[i for part in row for i in self._ids(part)] for row in prompts]
        width = max(map(len, rows))
        out = {
            "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        }
        videos = [clip.pixels(self.side) for clip in clips if clip.frames]
        stills = [clip.pixels(self.side).expand(2, -1, -1, -1) for clip in clips if not clip.frames]
        if videos:
            out["pixel_values_videos"] = torch.stack(videos)
        if stills:
            out["pixel_values"] = torch.stack(stills)
            out["image_sizes"] = torch.tensor([[self.side, self.side]] * len(stills))
        return out

    def _ids(self, part: int | Clip) -> list[int]:
        if not isinstance(part, Clip):
            return [part]
        if part.frames:
            return [HF_VIDEO] * (part.frames * 9 + 1)
        return [HF_IMAGE] * (36 + 6 * 7)  # whole picture, and one tile of 6 rows with a newline each

    def language_model(self):
        return self.model.model.language_model


SUBJECTS = {
    "llava": LlavaSubject,
    "llava_grid": lambda: LlavaSubject("grid"),
    "llava_frame": lambda: LlavaSubject("frame"),
    "llava_llama": lambda: LlavaSubject(family="llama"),
    "hf": HFSubject,
}


def greedy(subject, prompts: list[list], **kwargs) -> Tensor:
    """New ids [rows, n] of greedy decoding."""
    return greedy_with_logits(subject, prompts, **kwargs)[0]


def greedy_with_logits(subject, prompts: list[list], **kwargs) -> tuple[Tensor, tuple[Tensor, ...]]:
    """New ids [rows, n] and the logits of each step; video and image ids are never generated."""
    inputs = subject.inputs(prompts)
    options = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [HF_VIDEO, HF_IMAGE], **kwargs}
    out = subject.model.generate(**inputs, **subject.loose, **options, return_dict_in_generate=True, output_logits=True)
    start = inputs["input_ids"].shape[1] if subject.returns_prompt else 0
    return out.sequences[:, start:], out.logits


@torch.no_grad()
def forward(subject, prompts: list[list]) -> tuple[Tensor, Tensor]:
    """Logits [B, S, V] of one call of the model, and which slots its language model was told are real, bool [B, S]."""
    masks = []
    note = subject.language_model().register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    try:
        logits = subject.model(**subject.inputs(prompts)).logits
    finally:
        note.remove()
    real = torch.ones(logits.shape[:2], dtype=torch.bool) if masks[0] is None else masks[0].bool()
    return logits, real
