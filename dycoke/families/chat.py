"""A loaded model that can be asked about a video, whichever family its checkpoint is of."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from dycoke.families import architectures, chat_module
from dycoke.families.configs import read_config
from dycoke.families.sizes import Sizes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("auto", "cpu", "cuda")


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


def size_of(name: str) -> Sizes:
    """Context and tokens of a frame, by the config.json of a checkpoint that is built as loading it would do.

    Raises as `load_chat` does, of the config alone, where `sizes_in` leaves open what it is not told.
    """
    config, loader = _read(name)
    context, per_frame = loader.lengths(name, config)
    return Sizes(context=context, per_frame=per_frame)


def _read(name: str) -> tuple[dict[str, Any], ModuleType]:
    """The config of a checkpoint, and the module that loads it."""
    config = read_config(name)
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else named
    if not isinstance(architecture, str) or architecture not in architectures():
        raise ValueError(f"{name} is a model of architecture {architecture}; supported: {', '.join(architectures())}")
    if config.get("quantization_config"):
        raise ValueError(f"{name} is quantised, which is not supported; use the original checkpoint")
    return config, chat_module(architecture)
