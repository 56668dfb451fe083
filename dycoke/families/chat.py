"""A loaded model that can be asked about a video, whichever of the two checkpoint formats it came in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from dycoke.ask.asked import config_file

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("auto", "cpu", "cuda")

# Architecture in config.json -> module that loads it.
_LOADERS = {
    "LlavaQwenForCausalLM": "dycoke.families.llava.chat",
    "LlavaLlamaForCausalLM": "dycoke.families.llava.chat",
    "LlavaOnevisionForConditionalGeneration": "dycoke.families.llava_onevision.chat",
}


class Chat(Protocol):
    """A model, its tokenizer, and how its family writes a prompt with one video.

    placeholders: texts a question must not contain; context: tokens of the longest prompt the model reads;
    per_frame: visual tokens of a frame.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase

    @property
    def placeholders(self) -> tuple[str, ...]: ...

    @property
    def context(self) -> int: ...

    @property
    def per_frame(self) -> int: ...

    def text_tokens(self, request: dict[str, Any]) -> int:
        """Tokens of a request that are no visual tokens."""
        ...

    def request(self, frames: np.ndarray, question: str) -> dict[str, Any]:
        """Keyword arguments of `model.generate` for frames [T, H, W, 3] uint8 and a question."""
        ...


@dataclass(frozen=True)
class Placement:
    """Where a model goes: device "cpu" or "cuda", and its dtype."""

    device: str
    dtype: torch.dtype


def placement(device: str, dtype: str) -> Placement:
    """Resolve "auto": the GPU where there is one; bfloat16 on a GPU, float32 on a CPU.

    Raises ValueError for another name, or for "cuda" on a machine without a GPU.
    """
    if device not in DEVICES:
        raise ValueError(f"device {device!r}: expected one of {', '.join(DEVICES)}")
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: expected auto, {', '.join(DTYPES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda': this machine has no usable GPU; accepted: auto, cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    automatic = torch.bfloat16 if device == "cuda" else torch.float32
    return Placement(device, DTYPES.get(dtype, automatic))


def load_chat(name: str, where: Placement, preprocess: str = "exact") -> Chat:
    """Load a checkpoint: a local folder or a hub repository, of the architecture its config.json names.

    preprocess: how frames become pixels, "exact", "device" or "auto" (see `dycoke.video.pixels.frames_on`).
    Raises FileNotFoundError if there is none, ValueError if it is damaged, lacks tensors or is of another family, or
    for a way to make pixels that there is none of, or not for its image processor.
    """
    _, loader = _read(name)
    return loader.load(name, where, preprocess=preprocess)


@dataclass(frozen=True)
class Size:
    """Tokens of the longest prompt a checkpoint reads, and those of a frame before any is dropped."""

    context: int
    per_frame: int


def size_of(name: str) -> Size:
    """What the config.json of a checkpoint says of its lengths. Raises as `load_chat` does, of the config alone."""
    config, loader = _read(name)
    context, per_frame = loader.lengths(name, config)
    return Size(context, per_frame)


def _read(name: str) -> tuple[dict[str, Any], ModuleType]:
    """The config of a checkpoint, and the module that loads it."""
    file = config_file(name)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: its config.json is no JSON") from error
    if not isinstance(config, dict):
        raise ValueError(f"{name}: its config.json holds no JSON object")
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else named
    if not isinstance(architecture, str) or architecture not in _LOADERS:
        raise ValueError(f"{name} is a model of architecture {architecture}; supported: {', '.join(_LOADERS)}")
    if config.get("quantization_config"):
        raise ValueError(f"{name} is quantised, which is not supported; use the original checkpoint")
    return config, import_module(_LOADERS[architecture])
