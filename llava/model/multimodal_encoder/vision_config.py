"""Which tower a checkpoint names, and its shape."""

import json
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, PretrainedConfig, SiglipVisionConfig

CONFIG_CLASSES = {"siglip": SiglipVisionConfig, "clip": CLIPVisionConfig}

# Shapes as published under these hub names; LLaVA-NeXT configs name the tower without giving its shape.
PUBLISHED = {
    "google/siglip-so400m-patch14-384": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
    "openai/clip-vit-large-patch14-336": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    },
}


def tower_family(config: PretrainedConfig) -> str:
    """Return "siglip" or "clip" for a model config, from its vision_config, the tower's own, or mm_vision_tower's name.

    The tower's own config.json, where mm_vision_tower is a local folder, says more than how somebody named that.
    Raises ValueError for a tower of neither family, and one whose config.json cannot be read.
    """
    name = str(getattr(config, "mm_vision_tower", None))
    model_type = str((getattr(config, "vision_config", None) or {}).get("model_type", ""))
    own = "" if model_type else _own_type(Path(name))
    for text in (model_type.lower(), own.lower(), name.lower()):
        for family in CONFIG_CLASSES:
            if family in text:
                return family
        if text and text == own.lower():
            break  # neither: the folder's name does not make it one
    kind = f", whose config.json says {own!r}" if own else ""
    raise ValueError(f"mm_vision_tower {name!r}{kind}: expected a SigLIP or CLIP tower")


def _own_type(folder: Path) -> str:
    """The model_type in a folder's config.json, "" if it says none."""
    file = folder / "config.json"
    if not file.is_file():
        return ""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    return str(content.get("model_type", "")) if isinstance(content, dict) else ""


def tower_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the vision config of the tower as the hub has it (SigLIP's last layer still counted).

    Looks at config.vision_config, then at a local folder named by mm_vision_tower, then at the published shapes,
    then at the hub cache. Never downloads. Raises ValueError if none of them knows the tower.
    """
    family = tower_family(config)
    config_class = CONFIG_CLASSES[family]
    given = getattr(config, "vision_config", None)
    if given:
        return config_class(**without_type(given))
    name = config.mm_vision_tower
    if Path(name).is_dir():
        return config_class.from_pretrained(name)
    if name in PUBLISHED:
        return config_class(**PUBLISHED[name])
    try:
        return config_class.from_pretrained(name, local_files_only=True)
    except OSError as error:
        raise ValueError(
            f"the shape of vision tower {name!r} is unknown: give it as vision_config in config.json, "
            f"or point mm_vision_tower at a local folder"
        ) from error


def without_type(vision_config: dict[str, Any]) -> dict[str, Any]:
    """Drop model_type, which the config classes set themselves."""
    return {key: value for key, value in vision_config.items() if key != "model_type"}
