"""Which modules can be run from their weights alone, without calling them.

A fast forward reads the weights of a layer and skips the calls of its modules. That is right only where a call would do
nothing else: no hook would be missed, no other device be moved to, no adapter or quantizer be passed by.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from dycoke.turns import own_method

# Hooks that do nothing unless transformers itself asks for hidden states; it installs them once and for all.
_INERT = "transformers.utils.output_capturing"


def hooks_on(model: nn.Module) -> frozenset[int]:
    """The identities of all hooks on a model's modules, to tell later who has put them there."""
    return frozenset(id(hook) for module in model.modules() for hooks in _hooks(module) for hook in hooks.values())


def hooked(modules: Iterable[nn.Module], known: frozenset[int] = frozenset()) -> str:
    """What a call of one of the modules would do beside its forward, for the first that would; "" if none would.

    Asked at every call, for hooks come and go. known: identities of hooks that do not count.
    """
    for module in modules:
        if own_method(module, "forward") is not None:  # how accelerate moves data to the device of a layer
            return f"a {type(module).__name__} has a forward of its own"
        if getattr(module, "_compiled_call_impl", None) is not None:
            return f"a {type(module).__name__} is compiled"
        for hooks in _hooks(module):
            if any(getattr(hook, "__module__", "") != _INERT and id(hook) not in known for hook in hooks.values()):
                return f"a {type(module).__name__} carries hooks"
    return ""


def _hooks(module: nn.Module) -> tuple[dict, dict]:
    """By the names nn.Module gives them: it has no public way to list hooks."""
    return module._forward_pre_hooks, module._forward_hooks


def unlike(parts: Iterable[tuple[nn.Module, tuple[type, ...]]]) -> str:
    """The first part that is of none of its types, exactly, as a text; "" if there is none.

    Subclasses count as others: quantized and adapted layers are subclasses of what they replace.
    """
    for part, types in parts:
        if type(part) not in types:
            return f"a {type(part).__name__} where {' or '.join(each.__name__ for each in types)} is served"
    return ""


def scattered(modules: Iterable[nn.Module]) -> str:
    """Why the weights of the modules do not go together, or are no plain numbers; "" if they do, and are."""
    weights = [weight for module in modules for weight in module.parameters()]
    for weight in weights:
        if type(weight) is not nn.Parameter or type(weight.data) is not torch.Tensor:  # as quantized ones are
            return f"a weight is {type(weight.data if type(weight) is nn.Parameter else weight).__name__}"
    devices, dtypes = {weight.device for weight in weights}, {weight.dtype for weight in weights}
    if len(devices) > 1:
        return f"its layers lie on several devices: {', '.join(sorted(map(str, devices)))}"
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float16, torch.bfloat16, torch.float64}:
        return f"its weights are of {', '.join(sorted(map(str, dtypes)))}"
    return ""
