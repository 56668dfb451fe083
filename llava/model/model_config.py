"""Which model class a checkpoint needs, and its config translated for current transformers."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaTokenizer, PretrainedConfig, PreTrainedTokenizerBase, Qwen2Tokenizer

from llava.errors import Unsupported
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM

MODELS = {"LlavaQwenForCausalLM": LlavaQwenForCausalLM, "LlavaLlamaForCausalLM": LlavaLlamaForCausalLM}
# AutoTokenizer picks a generic class for model_type "llava", with other ids for Llama and no reader for vocab.json.
TOKENIZERS = {LlavaQwenForCausalLM: Qwen2Tokenizer, LlavaLlamaForCausalLM: LlamaTokenizer}
TOKENIZER_FILES = {
    LlavaQwenForCausalLM: ("tokenizer.json", "vocab.json"),
    LlavaLlamaForCausalLM: ("tokenizer.model", "tokenizer.json"),
}
# What building a config or a model raises on values of a wrong type or range, wherever they are used first.
DAMAGED = (StrictDataclassError, AttributeError, IndexError, KeyError, TypeError, ZeroDivisionError)
_BYTES, _SPECIALS = 256, 64  # entries of a byte-level vocabulary that no merge makes; special tokens, generously
CONTEXT_KEYS = ("max_sequence_length", "max_position_embeddings", "tokenizer_model_max_length")


def read_config_dict(folder: Path, customized: str | Path | dict | PretrainedConfig | None) -> dict[str, Any]:
    """Return the config of a checkpoint as a dict, from `customized` (file, dict or config) if that is given.

    Raises FileNotFoundError if there is no config.json, ValueError if it is no JSON object.
    """
    if isinstance(customized, PretrainedConfig):
        return customized.to_dict()
    if isinstance(customized, dict):
        return dict(customized)
    file = Path(customized) if customized is not None else folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file.parent} is no model folder: it has no {file.name}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, expected an object")
    return content


def model_class_for(config: dict[str, Any], model_name: str, model_path: str) -> type:
    """Return the class for a checkpoint: by the architecture its config names, otherwise by LLaVA-NeXT's name rules.

    Raises ValueError for families without a class here, quantised checkpoints and configs without a vision tower.
    """
    supported = ", ".join(MODELS)
    if not config.get("mm_vision_tower"):
        raise ValueError(f"{model_path} is no LLaVA-NeXT checkpoint: its config has no mm_vision_tower")
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
    rope_parameters. Raises ValueError on values of a wrong type.
    """
    content = {key: value for key, value in content.items() if key != "model_type"}
    try:
        config = model_class.config_class.from_dict(content)
        for key, value in (overwrite or {}).items():
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


def _scaled_rope(rope: dict[str, Any], scaling: dict[str, Any] | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_theta": rope["rope_theta"], "rope_type": "default"}
    scaling = dict(scaling)
    kind = scaling.pop("type", scaling.get("rope_type"))
    if kind is None:
        raise ValueError(f"rope_scaling {scaling}: expected a dict with 'type', such as 'linear', and 'factor'")
    return {**rope, **scaling, "rope_type": kind}


def load_tokenizer(model_class: type, folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint.

    Raises FileNotFoundError if the folder has none, ValueError naming a file that is damaged.
    """
    names = TOKENIZER_FILES[model_class]
    if not any((folder / name).is_file() for name in names):
        raise FileNotFoundError(f"no tokenizer in {folder}: expected {' or '.join(names)}")
    check_tokenizer_files(folder)
    try:
        return TOKENIZERS[model_class].from_pretrained(folder)
    except DAMAGED as error:
        raise ValueError(f"{folder}: damaged tokenizer files: {type(error).__name__}: {error}") from error


def check_tokenizer_files(folder: Path) -> None:
    """Raise ValueError naming a damaged tokenizer file; the readers of transformers fail without saying which it is."""
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
    contents = {name: read_config_dict(folder, folder / name) for name in names if (folder / name).is_file()}
    for name, key in (("tokenizer.json", "model"), ("tokenizer_config.json", "added_tokens_decoder")):
        value = contents.get(name, {}).get(key, None if name == "tokenizer.json" else {})
        if name in contents and not isinstance(value, dict):
            raise ValueError(f"{folder / name}: {key} is {value!r}, expected an object")
    if "tokenizer.json" not in contents and "vocab.json" in contents and (folder / "merges.txt").is_file():
        _check_merges(folder / "merges.txt", contents["vocab.json"])


def _check_merges(file: Path, vocab: dict[str, Any]) -> None:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text: {error}") from error
    merges = 0
    for number, line in enumerate(lines, start=1):
        if line.startswith("#version") or not line:
            continue
        parts = line.split(" ")
        if len(parts) != 2 or "".join(parts) not in vocab:
            raise ValueError(f"{file}, line {number}: {line!r} does not merge to an entry of vocab.json")
        merges += 1
    if merges < len(vocab) - _BYTES - _SPECIALS:
        raise ValueError(f"{file}: {merges} merges cannot make the {len(vocab)} entries of vocab.json")


def context_length(config: PretrainedConfig) -> int:
    """Return the longest prompt a config allows, 2048 if it does not say."""
    for key in CONTEXT_KEYS:
        if getattr(config, key, None) is not None:
            return getattr(config, key)
    return 2048
