"""The config.json of a checkpoint: where it is, and what it holds. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def config_file(name: str) -> Path:
    """The config.json of a checkpoint, a folder or a hub repository. Raises OSError or ValueError for none."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{name} is not a model folder: it has no config.json")
        return folder / "config.json"
    if folder.exists():
        raise ValueError(f"{name} is a file; expected a model folder or the name of a hub repository")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json"))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{name} is not a local folder, and the hub has no config.json for it") from error


def read_config(name: str) -> dict[str, Any]:
    """The content of a checkpoint's config.json. Raises as `config_file`, and ValueError if it is not a JSON object."""
    file = config_file(name)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: its config.json is not JSON") from error
    if not isinstance(config, dict):
        raise ValueError(f"{name}: its config.json is not a JSON object")
    return config


def config_of(checkpoint: str) -> Mapping[str, Any] | None:
    """A checkpoint's config.json, from its folder, the cache or the hub; None where there is none that can be read.

    What is wrong with it is told where it is loaded.
    """
    folder = Path(checkpoint)
    try:
        content = json.loads((folder / "config.json" if folder.exists() else _from_hub(checkpoint)).read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached if isinstance(cached, str) else hf_hub_download(name, "config.json"))
