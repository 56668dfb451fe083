"""Generation settings of lmms-eval's tasks as arguments of transformers' `generate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_NEW_TOKENS = 1024  # where a task names none, as the built-in models have it

# What means nothing to greedy decoding, and what is no setting of `generate`.
_SAMPLING = ("temperature", "top_p", "top_k")
_NO_SETTING = ("until", "image_aspect_ratio")


def as_given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of the task, as `llava_onevision` passes them on."""
    unused = _NO_SETTING if settings.get("do_sample") else _NO_SETTING + _SAMPLING
    return {"max_new_tokens": MAX_NEW_TOKENS} | {key: each for key, each in settings.items() if key not in unused}


def greedy_or_sampled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Length, beams and temperature, which decides whether answers are sampled, as `llava_vid` reads them."""
    common = {
        key: settings.get(key, default) for key, default in (("max_new_tokens", MAX_NEW_TOKENS), ("num_beams", 1))
    }
    if (settings.get("temperature") or 0) > 0:
        return {**common, "do_sample": True, "temperature": settings["temperature"], "top_p": settings.get("top_p")}
    return {**common, "do_sample": False}
