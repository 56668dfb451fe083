"""The table of model families: one entry for each, which names its parts; the only place that knows all of them.

A family is a folder (or a file) here and an entry in `FAMILIES`. Modules and classes are named, not imported, so that
neither this file nor a look-up imports torch or a family that is not asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from dycoke.families.base import FamilyAdapter


@dataclass(frozen=True)
class Family:
    """A model family: which models are of it, and the modules of its parts; None where it has no such part.

    classes: names of model classes, or of bases they share, in modules below `package`. adapter: module with `ADAPTER`,
    a `FamilyAdapter`; requests: module with `REQUESTS`, a `Requests` class; chat: module with `load` and `lengths`, as
    `dycoke.families.chat` calls them, for checkpoints whose config.json names one of `architectures`; sizes: module
    with `sizes`, as `dycoke.families.sizes` calls it. lmms_eval: ids of its models in lmms-eval, and their classes.
    supported: what a refusal of another model says of it.
    """

    package: str
    classes: tuple[str, ...]
    supported: tuple[str, ...]
    adapter: str
    requests: str | None = None
    chat: str | None = None
    sizes: str | None = None
    architectures: tuple[str, ...] = ()
    lmms_eval: Mapping[str, str] = field(default_factory=dict)


LLAVA = Family(
    package="llava",
    classes=("LlavaMetaForCausalLM",),
    supported=("llava.model.LlavaQwenForCausalLM", "llava.model.LlavaLlamaForCausalLM"),
    adapter="dycoke.families.llava.adapter",
    requests="dycoke.families.llava.requests",
    chat="dycoke.families.llava.chat",
    sizes="dycoke.families.llava.sizes",
    architectures=("LlavaQwenForCausalLM", "LlavaLlamaForCausalLM"),
    lmms_eval={
        "llava_onevision": "dycoke.eval.models.llava_onevision.LlavaOnevision",
        "llava_vid": "dycoke.eval.models.llava_vid.LlavaVideo",
    },
)
LLAVA_ONEVISION = Family(
    package="transformers",
    classes=("LlavaOnevisionForConditionalGeneration",),
    supported=("transformers.LlavaOnevisionForConditionalGeneration",),
    adapter="dycoke.families.llava_onevision.adapter",
    requests="dycoke.families.llava_onevision.requests",
    chat="dycoke.families.llava_onevision.chat",
    sizes="dycoke.families.llava_onevision.sizes",
    architectures=("LlavaOnevisionForConditionalGeneration",),
    lmms_eval={"dycoke_hf": "dycoke.eval.models.dycoke_hf.LlavaOnevisionHF"},
)
LANGUAGE_MODEL = Family(
    package="transformers",
    classes=("Qwen2Model", "Qwen2ForCausalLM", "LlamaModel", "LlamaForCausalLM"),
    supported=("transformers.Qwen2ForCausalLM and LlamaForCausalLM (with visual=)",),
    adapter="dycoke.families.language_model",
)
FAMILIES: tuple[Family, ...] = (LLAVA, LLAVA_ONEVISION, LANGUAGE_MODEL)


def family_of(model: nn.Module) -> Family | None:
    """The family of a model, by the nearest of its classes that is in the table; None for one of no family."""
    for cls in type(model).__mro__:
        for family in FAMILIES:
            if cls.__name__ in family.classes and cls.__module__.partition(".")[0] == family.package:
                return family
    return None


def adapter_for(model: nn.Module) -> FamilyAdapter:
    """The adapter of a model's family. Raises ValueError naming the supported families."""
    family = family_of(model)
    if family is None:
        raise ValueError(f"no adapter for {type(model).__name__}; supported: {supported('adapter')}")
    return import_module(family.adapter).ADAPTER(model)


def supported(part: str) -> str:
    """The models of the families that have a part, such as "requests", as a refusal names them."""
    return ", ".join(name for family in FAMILIES if getattr(family, part) for name in family.supported)


def architectures() -> dict[str, Family]:
    """Families whose checkpoints can be loaded, by the architecture that config.json names."""
    return {name: family for family in FAMILIES if family.chat for name in family.architectures}


def chat_module(architecture: str) -> ModuleType:
    """The module that loads checkpoints of an architecture. Raises KeyError for one that is not in the table."""
    return import_module(architectures()[architecture].chat)


def lmms_eval_models() -> dict[str, str]:
    """The models that lmms-eval gets from this package: id -> dotted name of the class."""
    return {name: path for family in FAMILIES for name, path in family.lmms_eval.items()}


def lmms_eval_family(model_id: str) -> Family:
    """The family of a model of lmms-eval, by its id. Raises ValueError naming the ids there are."""
    for family in FAMILIES:
        if model_id in family.lmms_eval:
            return family
    raise ValueError(f"id {model_id!r}: expected one of {', '.join(lmms_eval_models())}")
