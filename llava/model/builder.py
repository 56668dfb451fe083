"""Load a LLaVA-NeXT checkpoint."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import is_flash_attn_2_available

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN
from llava.errors import Unsupported
from llava.mm_utils import get_model_name_from_path
from llava.model.checkpoint import TOWER_PREFIX, check_tensors, local_folder, tensor_shapes, tower_folder
from llava.model.config_checks import check_depth
from llava.model.model_config import (
    DAMAGED,
    build_config,
    context_length,
    load_tokenizer,
    model_class_for,
    read_config_dict,
)
from llava.model.multimodal_encoder.processors import build_image_processor

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
METHOD_OPTIONS = ("method", "method_options", "plan", "image_token_start_index")


def load_pretrained_model(
    model_path: str,
    model_base: str | None,
    model_name: str | None,
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: str | dict | None = "auto",
    torch_dtype: str | torch.dtype = "float16",
    attn_implementation: str | None = "flash_attention_2",
    customized_config: str | dict | PretrainedConfig | None = None,
    overwrite_config: dict[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, Any, int]:
    """Return (tokenizer, model, image_processor, context_len) of a LLaVA-NeXT checkpoint.

    model_path: a local folder or a hub repository. The class follows the architecture named in config.json, and
    model_name (None: the last part of model_path) only where there is none. torch_dtype: "float16", "bfloat16",
    "float32" or a torch.dtype; the tower takes the same. device_map: as in transformers; "auto" means the CPU where
    there is no GPU. attn_implementation: "flash_attention_2" becomes "sdpa" with a warning where flash-attn is not
    usable; None or "None" is the default of transformers. overwrite_config is set on the config before the model is
    built; customized_config (a file, a dict or a config) replaces config.json. Further keywords: multimodal
    (accepted, has no effect); dycoke, dycoke_*, method, method_options, plan, image_token_start_index choose a token
    compression method for the model.
    Raises FileNotFoundError or ValueError for a folder that is not a complete checkpoint, naming what is wrong;
    llava.errors.Unsupported for quantised loading, LoRA and model families without a class here.
    """
    chosen = _choose_method(kwargs)
    kwargs.pop("multimodal", None)
    if kwargs:
        raise ValueError(f"unknown option {', '.join(sorted(kwargs))}; see load_pretrained_model for those accepted")
    _refuse(model_path, model_base, load_8bit, load_4bit)
    dtype = _dtype(torch_dtype)
    placement = _placement(device_map)
    attention = _attention(attn_implementation)

    folder = local_folder(model_path)
    content = read_config_dict(folder, customized_config)
    model_class = model_class_for(content, model_name or get_model_name_from_path(str(model_path)), str(model_path))
    config = build_config(model_class, content, overwrite_config)
    tokenizer = load_tokenizer(model_class, folder, config)
    model = _load_model(model_class, config, folder, dtype, placement, attention)
    _fit_vocabulary(tokenizer, model)
    tower = model.get_vision_tower()
    image_processor = build_image_processor(tower.family, tower.config, folder, tower.vision_tower_name)
    tower.image_processor = image_processor
    if chosen is not None:
        chosen.put_on(model)
    return tokenizer, model, image_processor, context_length(model.config)


def _choose_method(kwargs: dict[str, Any]) -> Any:
    """Take the options of a compression method out of kwargs; what they choose, or None."""
    names = [name for name in kwargs if name == "dycoke" or name.startswith("dycoke_") or name in METHOD_OPTIONS]
    if not names:
        return None
    from dycoke.keywords import choose_method  # llava does not depend on dycoke otherwise

    # It raises no TypeError: lmms-eval takes one for an unknown `multimodal`, and loads again without it.
    return choose_method({name: kwargs.pop(name) for name in names})


def _refuse(model_path: str, model_base: str | None, load_8bit: bool, load_4bit: bool) -> None:
    if load_8bit or load_4bit:
        raise Unsupported("8-bit and 4-bit loading are not supported; use torch_dtype='bfloat16' or 'float16'")
    only_parts = [Path(model_path) / name for name in ("adapter_config.json", "mm_projector.bin")]
    if model_base is not None or any(file.is_file() for file in only_parts):
        raise Unsupported(f"LoRA and projector-only checkpoints are not supported ({model_path}); merge them first")


def _dtype(torch_dtype: str | torch.dtype) -> torch.dtype:
    dtype = DTYPES.get(torch_dtype, torch_dtype) if isinstance(torch_dtype, str) else torch_dtype
    if dtype not in DTYPES.values():
        raise ValueError(f"torch_dtype {torch_dtype!r}: expected one of {', '.join(DTYPES)}")
    return dtype


def _placement(device_map: str | dict | None) -> str | dict | None:
    if torch.cuda.is_available():
        return device_map
    if device_map == "auto":
        return None
    if isinstance(device_map, str) and device_map.startswith("cuda"):
        raise ValueError(f"device_map {device_map!r}: this machine has no GPU; expected 'auto' or 'cpu'")
    return device_map


def _attention(attn_implementation: str | None) -> str | None:
    if attn_implementation in (None, "None"):
        return None
    if attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
        warnings.warn("flash-attn is not usable here; attn_implementation is 'sdpa'", stacklevel=3)
        return "sdpa"
    return attn_implementation


def _load_model(
    model_class: type,
    config: PretrainedConfig,
    folder: Path,
    dtype: torch.dtype,
    placement: str | dict | None,
    attention: str | None,
) -> PreTrainedModel:
    """Load the weights after checking every tensor's name and shape against the model's."""
    shapes = tensor_shapes(folder)
    config.delay_load = not any(name.startswith(TOWER_PREFIX) for name in shapes)
    check_depth(config.to_dict(), len(shapes), str(folder))
    if config.delay_load:
        tower_folder(config.mm_vision_tower)  # an absent tower is an error before the language model is read
    skeleton = skeleton_of(model_class, copy.deepcopy(config), str(folder))
    check_tensors(skeleton, shapes, str(folder))
    model = model_class.from_pretrained(
        folder, config=config, dtype=dtype, device_map=placement, attn_implementation=attention
    )
    model.get_vision_tower().load_model(dtype=dtype, device=model.device)
    model.config.delay_load = False
    return model.eval()


def skeleton_of(model_class: type, config: PretrainedConfig, source: str) -> PreTrainedModel:
    """A model without weights. Raises ValueError, naming the checkpoint's `source`, if a config makes none."""
    try:
        with torch.device("meta"):
            return model_class(config)
    except Unsupported:
        raise
    except (*DAMAGED, RuntimeError) as error:
        raise ValueError(f"{source}: no model can be built from its config: {type(error).__name__}: {error}") from error


def _fit_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Add the image tokens the config asks for, and grow the embeddings if they lack rows."""
    if getattr(model.config, "mm_use_im_patch_token", True):
        tokenizer.add_tokens([DEFAULT_IMAGE_PATCH_TOKEN], special_tokens=True)
    if model.config.mm_use_im_start_end:
        tokenizer.add_tokens([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN], special_tokens=True)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
