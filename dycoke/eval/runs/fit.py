"""Whether the rows of an experiment fit their models, by config.json alone: asked before the first row runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dycoke.eval.runs.specs import ModelSpec, RunSpec
from dycoke.fitting import decode_faults, frame_faults, inside_faults, newline_faults, order_faults
from dycoke.types import Plan

HF = "dycoke_hf"  # checkpoints in transformers' own format; the other models take those of LLaVA-NeXT
# How lmms-eval's models pool frames, and where they put newlines, unless their arguments say otherwise.
POOLING = {"llava_onevision": "bilinear", "llava_vid": "average"}
NEWLINE = {"llava_vid": "grid"}


@dataclass(frozen=True)
class Sizes:
    """What a row has to fit: layers of the language model, tokens it reads, tokens of a frame, and where newlines are.

    None: not known.
    """

    layers: int | None = None
    context: int | None = None
    per_frame: int | None = None
    newline: str | None = None


def check_rows(runs: Iterable[RunSpec], loaded: Sizes | None = None) -> None:
    """Raise ValueError that names each row that does not fit its model, and why.

    loaded: the sizes of the model they all have, where it is loaded; otherwise config.json is read, where there is one.
    What is not known is not judged.
    """
    known: dict[str, Sizes] = {}
    faults: dict[tuple[str, str, str], list[int]] = {}
    for run in runs:
        key = repr(run.model)
        if key not in known:
            known[key] = loaded or sizes_in(config_of(run.model.checkpoint), run.model)
        for fault in row_faults(run, known[key]):
            counts = faults.setdefault((run.method.label, run.model.name, fault), [])
            counts += [run.frames] if run.frames not in counts else []
    if faults:
        raise ValueError(f"methods that do not fit their model: {'; '.join(map(_line, faults, faults.values()))}")


def _line(fault: tuple[str, str, str], counts: list[int]) -> str:
    label, model, why = fault
    return f"{label!r} ({model}, {', '.join(map(str, counts))} frames): {why}"


def row_faults(run: RunSpec, sizes: Sizes) -> Iterator[str]:
    """Why a run cannot be made on a model of these sizes."""
    built = run.method.build()
    plan = built if isinstance(built, Plan) else built.plan()
    if sizes.layers is not None:
        yield from inside_faults(plan.pruners, sizes.layers)
        yield from decode_faults(plan.decode, plan.pruners, sizes.layers)
    yield from frame_faults(plan.before, run.frames)
    yield from order_faults(plan.before)
    yield from newline_faults(plan.before, sizes.newline)
    if sizes.per_frame is not None and _reads_all(run):
        yield from context_faults(plan, run.frames, sizes)


def context_faults(plan: Plan, frames: int, sizes: Sizes) -> Iterator[str]:
    """A video that leaves no room for a question, where it is known beforehand how many tokens are kept of it."""
    kept = frames * sizes.per_frame
    if plan.before is not None:
        try:
            kept = plan.before.count(frames, sizes.per_frame)
        except ValueError as error:
            yield str(error)
            return
    if kept is not None and sizes.context is not None and kept >= sizes.context:
        yield (f"{frames} frames are {kept} tokens, and with a question more than the {sizes.context} this model reads")


def _reads_all(run: RunSpec) -> bool:
    """Whether every video is read at as many frames as the experiment says, and not at fewer where it is short."""
    if run.model.args.get("token_strategy", "single") != "single":
        return False
    return run.model.id != "llava_vid" or bool(run.model.args.get("force_sample"))


def sizes_of(model: Any) -> Sizes:
    """The sizes of a loaded model. Raises ValueError for one of no supported family."""
    from dycoke.families.requests import requests_of
    from llava.model.llava_arch import LlavaMetaForCausalLM
    from llava.model.visual import newline_layout

    requests = requests_of(model)
    newline = newline_layout(model) if isinstance(model, LlavaMetaForCausalLM) else None
    return Sizes(model.config.get_text_config().num_hidden_layers, requests.context, requests.per_frame, newline)


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


def sizes_in(config: Mapping[str, Any] | None, model: ModelSpec) -> Sizes:
    """The sizes that a config.json and a model's arguments tell; what they do not tell for sure is not known."""
    if config is None or "customized_config" in model.args:
        return Sizes()
    if model.id == HF:
        text, vision = (_part(config, f"{part}_config") for part in ("text", "vision"))
        side = _side(vision)
        return Sizes(
            _size(text, "num_hidden_layers"), _context(text), None if side is None else math.ceil(side / 2) ** 2
        )
    return Sizes(
        _size(config, "num_hidden_layers"),
        None if _is_stretched(model) else _context(config),
        _pooled(_side(_tower(config)), _argument(model, config, "mm_spatial_pool_mode", POOLING)),
        _newline(config, model),
    )


def _pooled(side: int | None, mode: Any) -> int | None:
    """Tokens of a frame: half of each side, rounded up where they are interpolated."""
    if side is None or mode not in ("bilinear", "average", "max"):
        return None
    return (math.ceil(side / 2) if mode == "bilinear" else side // 2) ** 2


def _newline(config: Mapping[str, Any], model: ModelSpec) -> str | None:
    merging = config.get("mm_patch_merge_type")
    if not isinstance(merging, str) or "unpad" not in merging:
        return None
    return _argument(model, {"mm_newline_position": "one_token", **config}, "mm_newline_position", NEWLINE)


def _argument(model: ModelSpec, config: Mapping[str, Any], name: str, defaults: Mapping[str, str]) -> Any:
    """What a model's argument sets in the config of its checkpoint, or what the config has where it sets nothing."""
    sets = model.id in defaults and (model.id != "llava_vid" or bool(model.args.get("overwrite", True)))
    return model.args.get(name, defaults[model.id]) if sets else config.get(name)


def _is_stretched(model: ModelSpec) -> bool:
    """Whether lmms-eval's model gives the language model a longer context than its config has."""
    name = model.pretrained.lower()
    return model.id == "llava_vid" and ("vicuna" in name or "yi" in name)


def _context(config: Mapping[str, Any]) -> int | None:
    scaled = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaled, Mapping) or "factor" in scaled:
        return None  # longer than it says
    positions, cut = (_size(config, name) for name in ("max_position_embeddings", "tokenizer_model_max_length"))
    return positions if positions is None or cut is None else min(positions, cut)


def _tower(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of a vision tower, by its name where the checkpoint does not give it."""
    given, name = config.get("vision_config"), config.get("mm_vision_tower")
    if isinstance(given, Mapping) or not isinstance(name, str):
        return _part(config, "vision_config")
    if Path(name).is_dir():
        own = config_of(name) or {}
        return _part(own, "vision_config") or own
    from llava.model.multimodal_encoder.vision_config import PUBLISHED

    return PUBLISHED.get(name, {})


def _side(vision: Mapping[str, Any]) -> int | None:
    """Patches on a side of a frame."""
    image, patch = (_size(vision, name) for name in ("image_size", "patch_size"))
    return None if image is None or patch is None else image // patch


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, Mapping) else {}


def _size(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None
