"""A LLaVA-OneVision model with random weights, further ones that share them, and a request about a video."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, SiglipVisionConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dycoke.bench.decode.model import finish, language_config, make_random, set_weight, skeleton
from dycoke.bench.decode.setting import TEXT
from dycoke.bench.engine.setting import Setting

WHOLE = ["Qwen2DecoderLayer", "SiglipEncoderLayer"]  # modules that lie on one device
DeviceMap = dict[str, Any]


def build_llava(setting: Setting, device: str, seed: int = 0) -> nn.Module:
    """The model of a setting with random weights, made on its device, or spread over all GPUs.

    No answer of its ends early: the head's row of the token that would end it is zero.
    """
    config = _config(setting)
    devices = _device_map(config, setting) if setting.device_map == "auto" else {"": torch.device(device)}
    place = placed(devices)
    model = make_random(LlavaOnevisionForConditionalGeneration, config, setting.torch_dtype, place, seed)
    with torch.no_grad():
        model.lm_head.weight[config.text_config.eos_token_id] = 0
    return _ready(model, devices)


def share_llava(model: nn.Module, attention: str) -> nn.Module:
    """Another model with the same weights, which are not copied, and an attention implementation of its own."""
    config = copy.deepcopy(model.config)
    other = skeleton(type(model), config)
    for name, weight in model.state_dict().items():
        set_weight(other, name, weight)
    devices = getattr(model, "hf_device_map", {"": model.lm_head.weight.device})
    finish(other, placed(devices))
    other.set_attn_implementation(attention)
    return _ready(other, devices)


def placed(devices: DeviceMap) -> Callable[[str], torch.device]:
    """Where a device map puts what a name names: the device of the longest prefix of modules."""

    def place(name: str) -> torch.device:
        parts = name.split(".")
        prefixes = [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
        return torch.device(next(devices[prefix] for prefix in prefixes if prefix in devices))

    return place


def _config(setting: Setting) -> LlavaOnevisionConfig:
    shape, vision = setting.language, setting.vision
    tower = SiglipVisionConfig(
        hidden_size=vision.hidden,
        intermediate_size=vision.intermediate,
        num_hidden_layers=vision.layers,
        num_attention_heads=vision.heads,
        image_size=vision.side,
        patch_size=vision.patch,
        vision_use_head=False,
    )
    language = language_config(shape, ends=shape.vocabulary - 3)
    return LlavaOnevisionConfig(
        vision_config=tower.to_dict(),
        text_config=language.to_dict(),
        image_token_id=shape.vocabulary - 2,
        video_token_id=shape.vocabulary - 1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[vision.side, vision.side]],
        tie_word_embeddings=shape.tied,
    )


def _device_map(config: LlavaOnevisionConfig, setting: Setting) -> DeviceMap:
    empty = skeleton(LlavaOnevisionForConditionalGeneration, config)
    empty.tie_weights()
    memory = get_balanced_memory(empty, dtype=setting.torch_dtype, no_split_module_classes=WHOLE)
    return infer_auto_device_map(empty, memory, no_split_module_classes=WHOLE, dtype=setting.torch_dtype)


def _ready(model: nn.Module, devices: DeviceMap) -> nn.Module:
    """The model as `generate` takes it: it knows which token ends an answer, and moves what goes from GPU to GPU."""
    text = model.config.text_config
    model.generation_config.update(eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id)
    return dispatch_model(model, devices) if len(devices) > 1 else model


@dataclass(frozen=True)
class Request:
    """A prompt about videos as `generate` takes it. frames: of each video. rows: prompts B, of one video each."""

    inputs: dict[str, Tensor]
    frames: int
    rows: int

    @property
    def length(self) -> int:
        """Slots of the prompt S."""
        return self.inputs["input_ids"].shape[1]


def make_request(model: nn.Module, setting: Setting, frames: int, rows: int = 1, seed: int = 1) -> Request:
    """Videos of random pixels [B, T, 3, side, side] on the model's first device, and a prompt of TEXT tokens beside."""
    device = model.get_input_embeddings().weight.device
    generator = torch.Generator(device).manual_seed(seed)
    side, config = setting.vision.side, model.config
    pixels = torch.empty(1, frames, 3, side, side, dtype=setting.torch_dtype, device=device)
    pixels = pixels.uniform_(-1, 1, generator=generator).expand(rows, -1, -1, -1, -1)
    text = torch.randint(1, config.text_config.eos_token_id, (TEXT,), generator=generator, device=device)
    video = torch.full((frames * setting.vision.tokens + 1,), config.video_token_id, device=device)
    ids = torch.cat([text[: TEXT // 2], video, text[TEXT // 2 :]]).expand(rows, -1).contiguous()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}
    return Request(inputs, frames, rows)


@contextmanager
def stand_in_features(model: nn.Module, setting: Setting, request: Request, seed: int = 2) -> Iterator[Request]:
    """The request with random features in place of those the tower would make, the same for every row.

    For what comes behind the tower, where the tower's time and memory for many videos are not what is measured.
    """
    inner, pixels = model.model, request.inputs["pixel_values_videos"]
    newline, tokens = inner.image_newline, setting.vision.tokens
    generator = torch.Generator(newline.device).manual_seed(seed)
    made = torch.empty(request.frames * tokens, len(newline), dtype=newline.dtype, device=newline.device)
    made.normal_(generator=generator)
    if inner.get_video_features(pixels[:1, :1]).pooler_output.shape[1] > tokens:
        made = torch.cat([made, newline[None]])  # some releases of transformers end the features by themselves
    made = made.expand(request.rows, -1, -1)

    def get_video_features(pixel_values_videos: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pooler_output=made)

    before = vars(inner).get("get_video_features")  # an attached method may have its own
    inner.get_video_features = get_video_features
    try:
        yield Request(request.inputs | {"pixel_values_videos": pixels[..., :1, :1]}, request.frames, request.rows)
    finally:
        del inner.get_video_features
        if before is not None:
            inner.get_video_features = before
