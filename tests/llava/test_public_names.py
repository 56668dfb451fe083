"""The names and values that callers written for LLaVA-NeXT import."""

import importlib
import logging

import pytest
from transformers import AutoConfig

from llava import utils

NAMES = {
    "llava": ["LlavaLlamaForCausalLM", "LlavaQwenForCausalLM"],
    "llava.constants": ["CONTROLLER_HEART_BEAT_EXPIRATION", "LOGDIR", "WORKER_HEART_BEAT_INTERVAL"],
    "llava.conversation": ["Conversation", "SeparatorStyle", "conv_templates", "default_conversation"],
    "llava.mm_utils": [
        "KeywordsStoppingCriteria",
        "expand2square",
        "get_anyres_image_grid_shape",
        "get_model_name_from_path",
        "process_anyres_image",
        "process_images",
        "select_best_resolution",
        "tokenizer_image_token",
    ],
    "llava.model": ["LlavaConfig", "LlavaLlamaForCausalLM", "LlavaQwenConfig", "LlavaQwenForCausalLM"],
    "llava.model.builder": ["load_pretrained_model"],
    "llava.utils": ["disable_torch_init", "rank0_print"],
}


@pytest.mark.parametrize("module", NAMES)
def test_names(module):
    found = vars(importlib.import_module(module))
    assert [name for name in NAMES[module] if name not in found] == []


def test_constants():
    constants = importlib.import_module("llava.constants")
    assert (constants.IGNORE_INDEX, constants.IMAGE_TOKEN_INDEX) == (-100, -200)
    names = ("IMAGE_TOKEN", "IMAGE_PATCH_TOKEN", "IM_START_TOKEN", "IM_END_TOKEN")
    values = [getattr(constants, f"DEFAULT_{name}") for name in names]
    assert values == ["<image>", "<im_patch>", "<im_start>", "<im_end>"]


@pytest.mark.parametrize(("name", "model_type"), [("LlavaConfig", "llava_llama"), ("LlavaQwenConfig", "llava_qwen")])
def test_configs_can_be_registered_more_than_once(name, model_type):
    """lmms-eval's llava_vid registers them at import, and so may others."""
    config_class = getattr(importlib.import_module("llava.model"), name)
    for _ in range(2):
        AutoConfig.register(model_type, config_class)
    assert type(AutoConfig.for_model(model_type)) is config_class


@pytest.mark.parametrize(("rank", "logged"), [(None, True), ("0", True), ("1", False)])
def test_rank0_print(monkeypatch, caplog, rank, logged):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with caplog.at_level(logging.INFO, logger="llava"):
        utils.rank0_print("seen", 1)
    assert ("seen 1" in caplog.text) is logged
