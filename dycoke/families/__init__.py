"""One adapter per model family: the only code that knows how a family's forward pass is put together."""

from __future__ import annotations

from importlib import import_module

from torch import nn

from dycoke.families.base import FamilyAdapter

# Class name -> (module of the class, module of the adapter). By name, so that looking up needs no import of a family.
_FAMILIES = {
    "LlavaMetaForCausalLM": ("llava.", "dycoke.families.llava.adapter"),
    "LlavaOnevisionForConditionalGeneration": ("transformers.", "dycoke.families.llava_onevision.adapter"),
    "Qwen2Model": ("transformers.", "dycoke.families.language_model"),
    "Qwen2ForCausalLM": ("transformers.", "dycoke.families.language_model"),
    "LlamaModel": ("transformers.", "dycoke.families.language_model"),
    "LlamaForCausalLM": ("transformers.", "dycoke.families.language_model"),
}
SUPPORTED = (
    "llava.model.LlavaQwenForCausalLM",
    "llava.model.LlavaLlamaForCausalLM",
    "transformers.LlavaOnevisionForConditionalGeneration",
    "transformers.Qwen2ForCausalLM and LlamaForCausalLM (with visual=)",
)


def adapter_for(model: nn.Module) -> FamilyAdapter:
    """The adapter of a model's family. Raises ValueError naming the supported families."""
    for cls in type(model).__mro__:
        home, adapter = _FAMILIES.get(cls.__name__, ("", ""))
        if adapter and cls.__module__.startswith(home):
            return import_module(adapter).ADAPTER(model)
    raise ValueError(f"no adapter for {type(model).__name__}; supported: {', '.join(SUPPORTED)}")
