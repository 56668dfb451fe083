"""What a plan has to fit: layers, context, tokens of a frame and newlines of a model, loaded or by its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from dycoke.families import lmms_eval_family

if TYPE_CHECKING:
    from torch import nn

    from dycoke.types import Plan


@dataclass(frozen=True)
class Sizes:
    """Layers of the language model, tokens it reads, tokens of a frame, and where newlines are. None: not known."""

    layers: int | None = None
    context: int | None = None
    per_frame: int | None = None
    newline: str | None = None


class Evaluated(Protocol):
    """A model as lmms-eval is asked for it: its id there, its checkpoint, and further model arguments."""

    @property
    def id(self) -> str: ...

    @property
    def pretrained(self) -> str: ...

    @property
    def args(self) -> Mapping[str, Any]: ...


def sizes_of(model: nn.Module) -> Sizes:
    """The sizes of a loaded model. Raises ValueError for one of no family that takes videos."""
    from dycoke.families.requests import requests_of  # torch only where a model is loaded anyway

    requests = requests_of(model)
    layers = model.config.get_text_config().num_hidden_layers
    return Sizes(layers, requests.context, requests.per_frame, requests.newline)


def sizes_in(config: Mapping[str, Any] | None, model: Evaluated) -> Sizes:
    """The sizes that a config.json and a model's arguments tell; what they do not tell for sure is not known.

    Raises ValueError for an id that is none of lmms-eval's models here.
    """
    family = lmms_eval_family(model.id)
    if config is None or family.sizes is None or "customized_config" in model.args:
        return Sizes()
    return import_module(family.sizes).sizes(config, model)


def kept_tokens(plan: Plan, frames: int, per_frame: int) -> int | None:
    """Visual tokens that a plan hands to the language model; None where that depends on what the video shows.

    Raises ValueError for frames its compressor cannot take.
    """
    return frames * per_frame if plan.before is None else plan.before.count(frames, per_frame)


def context_in(config: Mapping[str, Any]) -> int | None:
    """Tokens that the language model of a config reads, None where its positions are scaled."""
    scaled = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaled, Mapping) or "factor" in scaled:
        return None  # longer than it says
    positions, cut = (size_in(config, name) for name in ("max_position_embeddings", "tokenizer_model_max_length"))
    return positions if positions is None or cut is None else min(positions, cut)


def patches_in(vision: Mapping[str, Any]) -> int | None:
    """Patches on a side of a frame, by the config of a vision tower."""
    image, patch = (size_in(vision, name) for name in ("image_size", "patch_size"))
    return None if image is None or patch is None else image // patch


def part_of(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The config of a part, empty where there is none."""
    part = config.get(name)
    return part if isinstance(part, Mapping) else {}


def size_in(config: Mapping[str, Any], name: str) -> int | None:
    """A positive integer of a config, None where it has none under that name."""
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None
