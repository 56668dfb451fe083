"""Refuse the config of a checkpoint whose values cannot be meant, before anything is built from it."""

import math
from collections.abc import Mapping
from typing import Any

from transformers.activations import ACT2FN

from llava.model.layout import NEWLINE_POSITIONS, POOL_MODES

_LARGEST = 2**31 - 1  # of sizes, counts and ids
_DEEPEST = 4096  # layers

_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "mm_hidden_size",
    "image_size",
    "patch_size",
    "num_channels",
    "projection_dim",
    "mm_spatial_pool_stride",
    "tokenizer_model_max_length",
    "max_sequence_length",
)
_POSITIVE = ("rms_norm_eps", "layer_norm_eps", "rope_theta")
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "image_token_id", "video_token_id")
_FLAGS = ("mm_use_im_start_end", "mm_use_im_patch_token", "tie_word_embeddings", "add_faster_video", "delay_load")
_CHOICES = {
    "mm_newline_position": NEWLINE_POSITIONS,
    "mm_spatial_pool_mode": POOL_MODES,
    "mm_vision_select_feature": ("patch", "cls_patch"),
    "tokenizer_padding_side": ("left", "right"),
    "vision_feature_select_strategy": ("default", "full"),
    "hidden_act": tuple(ACT2FN),
}
_TEXTS = ("mm_patch_merge_type", "mm_projector_type", "mm_vision_tower", "image_aspect_ratio")
_SECTIONS = ("text_config", "vision_config")


def check_config(config: Mapping[str, Any], source: str) -> None:
    """Raise ValueError naming the first value of a config.json that no model can be built from or asked with.

    source: what to call the config in the message. Keys that are absent or None are left to their defaults, and unknown
    ones to whom they belong. Its sections text_config and vision_config are checked alike.
    """
    for key in _SIZES:
        _check(source, config, key, _count, f"an integer from 1 to {_LARGEST}")
    _check(source, config, "num_hidden_layers", lambda each: _count(each) and each <= _DEEPEST, f"1 to {_DEEPEST}")
    for key in _POSITIVE:
        _check(source, config, key, _positive, "a number above 0")
    for key in _FLAGS:
        _check(source, config, key, lambda each: isinstance(each, bool), "true or false")
    for key in _TEXTS:
        _check(source, config, key, lambda each: isinstance(each, str), "a text")
    for key, legal in _CHOICES.items():
        _check(source, config, key, lambda each, legal=legal: _among(each, legal), f"one of {', '.join(legal)}")
    merge = "'flat' or a name starting with 'spatial'"
    _check(source, config, "mm_patch_merge_type", lambda each: each == "flat" or each.startswith("spatial"), merge)
    _check_ids(config, source)
    _check_heads(config, source)
    for section in _SECTIONS:
        _check(source, config, section, lambda each: isinstance(each, Mapping), "an object")
        if config.get(section):
            check_config(config[section], f"{source}: {section}")


def check_depth(config: Mapping[str, Any], tensors: int, source: str) -> None:
    """Raise ValueError for a config of more layers than its checkpoint has tensors, whose building would not end."""
    for section in ("", *_SECTIONS):
        layers = ((config.get(section) or {}) if section else config).get("num_hidden_layers")
        if layers is not None and layers > tensors:
            raise ValueError(
                f"{source}: {section or 'config.json'}: num_hidden_layers is {layers} for {tensors} tensors"
            )


def _check(source: str, config: Mapping[str, Any], key: str, legal: Any, expected: str) -> None:
    value = config.get(key)
    if value is not None and not legal(value):
        raise ValueError(f"{source}: {key} is {_short(value)}; expected {expected}")


def _check_ids(config: Mapping[str, Any], source: str) -> None:
    """Ids are numbers of tokens; that of padding has a row in the embeddings, counted from the end if below 0."""
    for key in _IDS:
        each_of = config.get(key) if isinstance(config.get(key), list) else [config.get(key)]
        for each in each_of:
            if each is not None and not (_integer(each) and -_LARGEST <= each <= _LARGEST):
                raise ValueError(f"{source}: {key} is {_short(config[key])}; expected the id of a token")
    rows, padding = config.get("vocab_size"), config.get("pad_token_id")
    if rows is not None and padding is not None and (not _integer(padding) or not -rows <= padding < rows):
        raise ValueError(
            f"{source}: pad_token_id is {_short(padding)}; expected one of the {rows} tokens of vocab_size"
        )


def _check_heads(config: Mapping[str, Any], source: str) -> None:
    heads, shared, width = (config.get(key) for key in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    if heads is not None and shared is not None and heads % shared:
        raise ValueError(
            f"{source}: num_key_value_heads is {shared}; expected a divisor of num_attention_heads, {heads}"
        )
    if heads is not None and width is not None and config.get("head_dim") is None and width % heads:
        raise ValueError(f"{source}: hidden_size is {width}; expected a multiple of num_attention_heads, {heads}")
    side, patch = config.get("image_size"), config.get("patch_size")
    if side is not None and patch is not None and patch > side:
        raise ValueError(f"{source}: patch_size is {patch}; expected at most image_size, {side}")


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return _integer(value) and 1 <= value <= _LARGEST


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _among(value: Any, legal: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value in legal


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a number of many digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
