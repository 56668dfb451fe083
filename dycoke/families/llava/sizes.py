"""What the config.json of a LLaVA-NeXT checkpoint tells of its sizes, and lmms-eval's arguments beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dycoke.families.configs import config_of
from dycoke.families.sizes import Evaluated, Sizes, context_in, part_of, patches_in, size_in

# How lmms-eval's models pool frames, and where they put newlines, unless their arguments say otherwise.
POOLING = {"llava_onevision": "bilinear", "llava_vid": "average"}
NEWLINE = {"llava_vid": "grid"}


def sizes(config: Mapping[str, Any], model: Evaluated) -> Sizes:
    """As `dycoke.families.sizes.sizes_in`."""
    return Sizes(
        size_in(config, "num_hidden_layers"),
        None if _is_stretched(model) else context_in(config),
        _pooled(patches_in(_tower(config)), _argument(model, config, "mm_spatial_pool_mode", POOLING)),
        _newline(config, model),
    )


def _pooled(side: int | None, mode: Any) -> int | None:
    """Tokens of a frame: half of each side, rounded up where they are interpolated."""
    if side is None or mode not in ("bilinear", "average", "max"):
        return None
    return (math.ceil(side / 2) if mode == "bilinear" else side // 2) ** 2


def _newline(config: Mapping[str, Any], model: Evaluated) -> str | None:
    merging = config.get("mm_patch_merge_type")
    if not isinstance(merging, str) or "unpad" not in merging:
        return None
    return _argument(model, {"mm_newline_position": "one_token", **config}, "mm_newline_position", NEWLINE)


def _argument(model: Evaluated, config: Mapping[str, Any], name: str, defaults: Mapping[str, str]) -> Any:
    """What a model's argument sets in the config of its checkpoint, or what the config has where it sets nothing."""
    sets = model.id in defaults and (model.id != "llava_vid" or bool(model.args.get("overwrite", True)))
    return model.args.get(name, defaults[model.id]) if sets else config.get(name)


def _is_stretched(model: Evaluated) -> bool:
    """Whether lmms-eval's model gives the language model a longer context than its config has."""
    name = model.pretrained.lower()
    return model.id == "llava_vid" and ("vicuna" in name or "yi" in name)


def _tower(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of a vision tower, by its name where the checkpoint does not give it."""
    given, name = config.get("vision_config"), config.get("mm_vision_tower")
    if isinstance(given, Mapping) or not isinstance(name, str):
        return part_of(config, "vision_config")
    if Path(name).is_dir():
        own = config_of(name) or {}
        return part_of(own, "vision_config") or own
    from llava.model.multimodal_encoder.vision_config import PUBLISHED  # torch only where it is needed

    return PUBLISHED.get(name, {})
