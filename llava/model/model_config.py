"""Which model class a checkpoint needs, and its config translated for current transformers."""

import warnings
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaTokenizer, PretrainedConfig, PreTrainedTokenizerBase, Qwen2Tokenizer

from llava.errors import Unsupported
from llava.model.config_checks import check_config
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM
from llava.model.tokenizer_files import check_special_tokens, check_tokenizer_files, read_object

MODELS = {"LlavaQwenForCausalLM": LlavaQwenForCausalLM, "LlavaLlamaForCausalLM": LlavaLlamaForCausalLM}
# AutoTokenizer picks a generic class for model_type "llava", with other ids for Llama and no reader for vocab.json.
TOKENIZERS = {LlavaQwenForCausalLM: Qwen2Tokenizer, LlavaLlamaForCausalLM: LlamaTokenizer}
TOKENIZER_FILES = {
    LlavaQwenForCausalLM: ("tokenizer.json", "vocab.json"),
    LlavaLlamaForCausalLM: ("tokenizer.model", "tokenizer.json"),
}
# Special tokens that the conversation templates of a family write.
MARKERS = {LlavaQwenForCausalLM: ("<|im_start|>", "<|im_end|>"), LlavaLlamaForCausalLM: ("<s>", "</s>")}
# What building a config or a model raises on values of a wrong type or range, wherever they are used first.
DAMAGED = (
    StrictDataclassError,
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    ZeroDivisionError,
)
POOL_STRIDE = 2
CONTEXT_KEYS = ("max_sequence_length", "max_position_embeddings", "tokenizer_model_max_length")


def read_config_dict(folder: Path, customized: str | Path | dict | PretrainedConfig | None) -> dict[str, Any]:
    """Return the config of a checkpoint as a dict, from `customized` (file, dict or config) if that is given.

    Raises FileNotFoundError if there is no config.json, ValueError if it is not a JSON object.
    """
    if isinstance(customized, PretrainedConfig):
        return customized.to_dict()
    if isinstance(customized, dict):
        return dict(customized)
    file = Path(customized) if customized is not None else folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file.parent} is not a model folder: it has no {file.name}")
    return read_object(file)


def model_class_for(config: dict[str, Any], model_name: str, model_path: str) -> type:
    """Return the class for a checkpoint: by the architecture its config names, otherwise by LLaVA-NeXT's name rules.

    Raises ValueError for families without a class here, quantised checkpoints and configs without a vision tower.
    """
    supported = ", ".join(MODELS)
    if not config.get("mm_vision_tower"):
        raise ValueError(f"{model_path} is not a LLaVA-NeXT checkpoint: its config has no mm_vision_tower")
    named = config.get("architectures") or [None]
    if not isinstance(named, list) or not isinstance(named[0], str | None):
        raise ValueError(f"{model_path}: architectures {named!r} in its config; expected a list with a class name")
    architecture = named[0]
    if config.get("quantization_config"):
        raise Unsupported(f"{model_path} is quantised, which is not supported; use the original checkpoint")
    if architecture is not None:
        if architecture not in MODELS:
            raise Unsupported(f"{model_path} is a {architecture}; supported are {supported}")
        return MODELS[architecture]
    name = model_name.lower()
    for word in ("mixtral", "mistral", "zephyr", "gemma", "moe", "a14b"):
        if word in name:
            raise Unsupported(f"model name {model_name!r} asks for a {word} model; supported are {supported}")
    is_llama = any(word in name for word in ("llama", "yi", "nous-hermes", "llava-v1.6-34b", "llava-v1.5"))
    is_qwen = any(word in name for word in ("qwen", "quyen"))
    return LlavaQwenForCausalLM if is_qwen and not is_llama else LlavaLlamaForCausalLM


def build_config(model_class: type, content: dict[str, Any], overwrite: dict[str, Any] | None) -> PretrainedConfig:
    """Return the config object of a model, with `overwrite` applied.

    Old rope keys are translated: rope_scaling = {"type": ..., "factor": ...} (or None) and rope_theta end up in
    rope_parameters. Raises ValueError on values of a wrong type, or that no model can have.
    """
    content = {key: value for key, value in content.items() if key != "model_type"}
    overwrite = overwrite or {}
    check_config({**content, **overwrite}, "model config")
    _check_stride(content, overwrite)
    try:
        config = model_class.config_class.from_dict(content)
        for key, value in overwrite.items():
            if key == "rope_scaling":
                config.rope_parameters = _scaled_rope(config.rope_parameters, value)
            elif key == "rope_theta":
                config.rope_parameters = {**config.rope_parameters, "rope_theta": value}
            else:
                setattr(config, key, value)
    except DAMAGED as error:
        raise ValueError(f"model config: {error}") from error
    # Callers read these as plain attributes.
    config.mm_use_im_start_end = getattr(config, "mm_use_im_start_end", False)
    return config


def _check_stride(content: dict[str, Any], overwrite: dict[str, Any]) -> None:
    """Videos are pooled by 2, as by LLaVA-NeXT's own inference, whatever a config says.

    Raises ValueError where a caller asks for another stride; a checkpoint that names one is told of.
    """
    said = f"has no effect: the tokens of a frame are pooled by {POOL_STRIDE}, as LLaVA-NeXT does"
    asked, own = (each.get("mm_spatial_pool_stride") for each in (overwrite, content))
    if asked not in (None, POOL_STRIDE):
        raise ValueError(f"mm_spatial_pool_stride={asked} {said}; pass {POOL_STRIDE} or leave it out")
    if own not in (None, POOL_STRIDE):
        warnings.warn(f"mm_spatial_pool_stride={own} in the checkpoint's config {said}", stacklevel=4)


def _scaled_rope(rope: dict[str, Any], scaling: dict[str, Any] | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_theta": rope["rope_theta"], "rope_type": "default"}
    scaling = dict(scaling)
    kind = scaling.pop("type", scaling.get("rope_type"))
    if kind is None:
        raise ValueError(f"rope_scaling {scaling}: expected a dict with 'type', such as 'linear', and 'factor'")
    return {**rope, **scaling, "rope_type": kind}


def load_tokenizer(model_class: type, folder: Path, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint.

    Raises FileNotFoundError if the folder has none or half of one, ValueError naming a file that is damaged.
    """
    names = TOKENIZER_FILES[model_class]
    if not any((folder / name).is_file() for name in names):
        raise FileNotFoundError(f"no tokenizer in {folder}: expected {' or '.join(names)}")
    check_tokenizer_files(folder)
    try:
        tokenizer = TOKENIZERS[model_class].from_pretrained(folder)
    except DAMAGED as error:
        raise ValueError(f"{folder}: damaged tokenizer files: {type(error).__name__}: {error}") from error
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    check_special_tokens(tokenizer, folder, MARKERS[model_class], [config.bos_token_id, *ends])
    return tokenizer


def context_length(config: PretrainedConfig) -> int:
    """Return the longest prompt a config allows, 2048 if it does not say."""
    for key in CONTEXT_KEYS:
        if getattr(config, key, None) is not None:
            return getattr(config, key)
    return 2048
