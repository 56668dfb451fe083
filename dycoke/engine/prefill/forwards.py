"""Fast forward passes of a model, installed for a while: prefill of the language model, and the vision encoder.

Only what a module computes is replaced, its `forward`; hooks on the module itself run as before. Every call decides
for itself whether it is one the fast forward computes, and is the stock one otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from dycoke.engine.prefill import language as language_prefill
from dycoke.engine.prefill import pooling, vision
from dycoke.engine.prefill.rows import BACKENDS

_OWN = "_forward_of_the_engine"


class Fast(Protocol):
    """A forward pass of a module, for calls that it serves."""

    def unserved(self) -> str: ...

    def serves(self, kwargs: dict[str, Any]) -> bool: ...

    def run(self, kwargs: dict[str, Any]) -> Any: ...


class _Encode:
    """Of our towers, the layers they use; see `VisionTower.encode`."""

    def __init__(self, tower: nn.Module, backends: Sequence[SDPBackend]) -> None:
        self._layers = vision.EncoderLayers(tower.vision_tower, tower.depth, backends)

    def unserved(self) -> str:
        return self._layers.unserved()

    def serves(self, kwargs: dict[str, Any]) -> bool:
        return self._layers.serves(kwargs["hidden"])

    def run(self, kwargs: dict[str, Any]) -> Tensor:
        *_, last = self._layers.run(kwargs["hidden"])
        return last


class FastForwards:
    """The fast forwards of a model's parts, made once for the weights it has now, to be put on it and taken off.

    backends: of attention, in order of preference.
    """

    def __init__(self, model: nn.Module, backends: Sequence[SDPBackend] = BACKENDS) -> None:
        self._family = type(model).__name__
        self._parts = [(part, module, name, make(backends)) for part, module, name, make in _parts(model)]

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within the context, the parts use the fast forwards where they can; given back also by an exception.

        Raises ValueError for a model that already has fast forward passes; take them off first.
        """
        with ExitStack() as undo:
            for _, module, name, fast in self._parts:
                if hasattr(vars(module).get(name), _OWN):
                    raise ValueError(f"{self._family} already has fast forward passes; take them off first")
                if _taken(module, name):
                    continue
                setattr(module, name, _forward(getattr(module, name), fast))
                undo.callback(delattr, module, name)
            yield

    def reasons(self) -> dict[str, str]:
        """Reason why each part, "language model", "vision" and "pooling", would run as it is now; "" for a fast one.

        A part the model does not have is left out. Single calls may run as they are all the same: a decode step, one
        with gradients, or one that asks for attentions or hidden states.
        """
        return {part: _taken(module, name) or fast.unserved() for part, module, name, fast in self._parts}


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Callable[[Sequence[SDPBackend]], Fast]]]:
    """Part, module, the name of the method to replace, and what makes its fast forward."""
    towers = set()
    for module in list(model.modules()):
        if isinstance(module, language_prefill.MODELS):
            yield "language model", module, "forward", lambda b, m=module: language_prefill.LanguagePrefill(m, b)
        elif hasattr(module, "encode") and isinstance(getattr(module, "vision_tower", None), vision.MODELS):
            towers.add(module.vision_tower)  # its own forward is not called
            yield "vision", module, "encode", lambda b, m=module: _Encode(m, b)
        elif isinstance(module, pooling.MODELS):
            yield "pooling", module, pooling.METHOD, lambda _, m=module: pooling.FramePooling(m)
        elif isinstance(module, vision.MODELS) and module not in towers:
            yield "vision", module, "forward", lambda b, m=module: vision.VisionForward(m, b)


def _taken(module: nn.Module, name: str) -> str:
    """Who replaced the method before, or compiled the module; "" if nobody did or it was us."""
    own = vars(module).get(name)
    if own is not None and not hasattr(own, _OWN):
        return f"a {type(module).__name__} has a {name} of its own"
    if getattr(module, "_compiled_call_impl", None) is not None:
        return f"a {type(module).__name__} is compiled"
    return ""


def _forward(stock: Callable[..., Any], fast: Fast) -> Callable[..., Any]:
    """A method in the place of `stock`, of the same signature."""
    names = list(inspect.signature(stock).parameters)

    @wraps(stock)
    def forward(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        return fast.run(given) if fast.serves(given) else stock(*args, **kwargs)

    setattr(forward, _OWN, True)
    return forward
