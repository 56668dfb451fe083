"""Tiny random models of the families the engine serves, and what is compared of a prefill."""

import inspect

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from dycoke.stages.arguments import CACHE_NAMES
from tests.llava import tiny

CACHE = next(name for name in CACHE_NAMES if name in inspect.signature(Qwen2Model.forward).parameters)
SIZES = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
LANGUAGE = {"qwen2": (Qwen2ForCausalLM, Qwen2Config), "llama": (LlamaForCausalLM, LlamaConfig)}
VISION = {
    "siglip": (SiglipVisionModel, SiglipVisionConfig, {"vision_use_head": False}),
    "siglip_with_head": (SiglipVisionModel, SiglipVisionConfig, {"vision_use_head": True}),
    "siglip_gelu": (SiglipVisionModel, SiglipVisionConfig, {"hidden_act": "gelu", "vision_use_head": False}),
    "clip": (CLIPVisionModel, CLIPVisionConfig, {}),
}


def language(family="qwen2", **options):
    """A causal language model in evaluation mode."""
    model_class, config_class = LANGUAGE[family]
    model = model_class(config_class(**SIZES | options)).eval()
    tiny.fill_randomly(model)
    return model


def encoder(family="siglip", **options):
    """A vision model of 4 layers and 3 x 3 patches in evaluation mode."""
    model_class, config_class, own = VISION[family]
    sizes = {"hidden_size": 36, "intermediate_size": 60, "num_hidden_layers": 4, "num_attention_heads": 2}
    model = model_class(config_class(**sizes, image_size=12, patch_size=4, **own | options)).eval()
    tiny.fill_randomly(model)
    return model


def embeds(batch, length, seed=0):
    return torch.randn(batch, length, SIZES["hidden_size"], generator=torch.Generator().manual_seed(seed))


def cache_of(output):
    """The cache a model of transformers returned, by either of its names."""
    return next((output[name] for name in CACHE_NAMES if output.get(name) is not None), None)


def stored(cache):
    """Keys and values [L, 2, B, H, S, D] of a dynamic cache."""
    return torch.stack([torch.stack([layer.keys, layer.values]) for layer in cache.layers])
