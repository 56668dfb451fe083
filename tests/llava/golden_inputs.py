"""The deterministic inputs behind the golden values; every number here decides what the goldens mean."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PretrainedConfig

from llava.mm_utils import process_images
from llava.model import LlavaQwenForCausalLM
from llava.model.model_config import build_config
from tests.llava import tiny

QWEN = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: {} ASSISTANT:"
)
PROMPTS = [
    QWEN.format("<image>\nWhat is shown?"),
    QWEN.format("No picture here."),
    QWEN.format("<image> first, <image> second."),
    "<image>",
    "<image>\nHi",
    "Hi<image>",
    VICUNA.format("<image>\nWhat is shown?"),
    VICUNA.format("A <image> B <image> C"),
    "",
]
ONE, TEXT, TWO, VICUNA_ONE = PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[6]
GRIDS = {
    "ov": [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)],
    "v16": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
}


def smooth_image(width: int, height: int, seed: int) -> Image.Image:
    """Return a blurred random image with some grain."""
    rng = np.random.RandomState(seed)
    small = rng.randint(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(small).resize((width, height), Image.BILINEAR)).astype(np.int16)
    grain = rng.randint(-20, 21, (height, width, 3))
    return Image.fromarray((large + grain).clip(0, 255).astype(np.uint8))


def images() -> dict[str, Image.Image]:
    return {
        "wide": smooth_image(640, 480, 1),
        "tall": smooth_image(300, 700, 2),
        "sq": smooth_image(384, 384, 3),
        "gray": smooth_image(200, 120, 4).convert("L"),
        "rgba": smooth_image(210, 333, 5).convert("RGBA"),
    }


def video(count: int) -> np.ndarray:
    """Return uint8 frames [count, 240, 320, 3]."""
    return np.stack([np.asarray(smooth_image(320, 240, 9 + number)) for number in range(count)])


def pixels(size: int = 384, seed: int = 0) -> torch.Tensor:
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(100 + seed)) * 0.6


def frames(count: int, size: int = 384, seed: int = 0) -> torch.Tensor:
    return torch.stack([pixels(size, seed * 50 + number) for number in range(count)])


def published_config(goldens_dir: Path, **overrides: Any) -> PretrainedConfig:
    """Return the published 7B config with its sizes shrunk to those of the golden checkpoints."""
    content = json.loads((goldens_dir / "config_ov7b.json").read_text())
    content |= {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "mm_hidden_size": 32,
        "vision_config": tiny.vision_config("siglip", image_size=384),
        **overrides,
    }
    return build_config(LlavaQwenForCausalLM, content, None)


Visuals = tuple[Any, Any]  # images, image_sizes


@dataclass(frozen=True)
class Case:
    """One packing case. visuals(processor, config) makes its images and image_sizes."""

    model: str
    prompt: str
    visuals: Callable[[Any, Any], Visuals]
    modalities: list[str] | str = field(default_factory=lambda: ["image"])
    config: dict[str, Any] = field(default_factory=dict)
    with_mask: bool = True


def _four_frames(processor: Any, config: Any) -> Visuals:
    return [frames(4)], None


def _processed(*names: str, as_list: bool = False) -> Callable[[Any, Any], Visuals]:
    def visuals(processor: Any, config: Any) -> Visuals:
        chosen = [images()[name] for name in names]
        ready = process_images(chosen, processor, config)
        return (list(ready) if as_list else ready), [image.size for image in chosen]

    return visuals


def _large_image(processor: Any, config: Any) -> Visuals:
    image = smooth_image(1500, 900, 8)
    return process_images([image], processor, config), [image.size]


def _given(visual: list, sizes: list | None = None) -> Callable[[Any, Any], Visuals]:
    return lambda processor, config: (visual, sizes)


def _video_cases() -> dict[str, Case]:
    cases = {}
    for mode in ("bilinear", "average", "max"):
        for position in ("one_token", "grid", "frame", "no_token"):
            config = {"mm_spatial_pool_mode": mode, "mm_newline_position": position}
            cases[f"ov_vid4_{mode}_{position}"] = Case("ov", ONE, _four_frames, ["video"], config)
    two = [frames(2), frames(3, seed=1)]
    average = {"mm_spatial_pool_mode": "average"}
    cases |= {
        "ov_vid4_flat": Case("ov", ONE, _four_frames, ["video"], {"mm_patch_merge_type": "flat"}),
        "ov_vid4_spatial": Case("ov", ONE, _four_frames, ["video"], {"mm_patch_merge_type": "spatial"}),
        "ov_vid4_stride4": Case("ov", ONE, _four_frames, ["video"], {"mm_spatial_pool_stride": 4}),
        "ov_vid4_strmod": Case("ov", ONE, _four_frames, "video"),
        "ov_vid1": Case("ov", ONE, _given([frames(1)]), ["video"]),
        "ov_vid32": Case("ov", ONE, lambda processor, config: ([frames(32)], None), ["video"]),
        "ov_two_vid": Case("ov", TWO, _given(two), ["video", "video"]),
        "ov_two_vid_one_mod": Case("ov", TWO, _given(two), ["video"]),
        "ov_img_then_vid": Case("ov", TWO, _given([pixels(), frames(3, seed=1)], [(384, 384)] * 2), ["image", "video"]),
        "ov_truncate": Case("ov", ONE, _four_frames, ["video"], {"tokenizer_model_max_length": 300}),
        "ov_noattn": Case("ov", ONE, _four_frames, ["video"], with_mask=False),
        "vid_vid4_native": Case("vid", ONE, _four_frames, ["video"]),
        "vid_vid4_avg": Case("vid", ONE, _four_frames, ["video"], average),
        "v16_vid": Case(
            "v16", VICUNA_ONE, _given([frames(3, 336)]), ["video"], average | {"mm_newline_position": "no_token"}
        ),
    }
    return cases


def _image_cases() -> dict[str, Case]:
    pad = {"image_aspect_ratio": "pad"}
    both = ("wide", "tall")
    cases = {
        "ov_img_big_anyres2": Case("ov", ONE, _large_image, config={"image_aspect_ratio": "anyres_max_2"}),
        "ov_two_img_pad_stack": Case("ov", TWO, _processed(*both), config=pad),
        "ov_two_img_pad_list": Case("ov", TWO, _processed(*both, as_list=True), config=pad),
        "ov_pad_stack_as_video": Case("ov", ONE, _processed(*both), ["video"], pad),
        "ov_text_with_image": Case("ov", TEXT, _given([pixels()], [(384, 384)])),
        "ov_too_few_images": Case("ov", TWO, _given([pixels()], [(384, 384)])),
        "v16_img_wide": Case("v16", VICUNA_ONE, _processed("wide")),
        "v16_img_tall": Case("v16", VICUNA_ONE, _processed("tall")),
        "v15_img_pad": Case("v15", VICUNA_ONE, _processed("wide")),
        "v15_img_pad_list": Case("v15", VICUNA_ONE, _processed("wide", as_list=True)),
    }
    for name in ("wide", "tall", "sq"):
        cases[f"ov_img_{name}_anyres9"] = Case("ov", ONE, _processed(name))
        cases[f"ov_img_{name}_anyres9_list"] = Case("ov", ONE, _processed(name, as_list=True))
    return cases


def cases() -> dict[str, Case]:
    """Return every packing case that can be checked; llava/README.md names the others."""
    return _video_cases() | _image_cases()
