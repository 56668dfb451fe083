"""DyCoke: training-free visual-token compression for video language models.

The public names are imported when they are first asked for: torch takes seconds, and the command line often needs none.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dycoke import moved
from dycoke.version import __version__

if TYPE_CHECKING:
    from dycoke.attach import Run, apply, attach, attached, remove
    from dycoke.plans import build_plan, load_plan
    from dycoke.registry import available, build, register
    from dycoke.types import Compressed, Plan, VisualTokens

__all__ = [
    "Compressed",
    "Plan",
    "Run",
    "VisualTokens",
    "__version__",
    "apply",
    "attach",
    "attached",
    "available",
    "build",
    "build_plan",
    "load_plan",
    "register",
    "remove",
]

_HOMES = {
    **dict.fromkeys(("Run", "apply", "attach", "attached", "remove"), "attach"),
    **dict.fromkeys(("build_plan", "load_plan"), "plans"),
    **dict.fromkeys(("available", "build", "register"), "registry"),
    **dict.fromkeys(("Compressed", "Plan", "VisualTokens"), "types"),
}


class _Package(ModuleType):
    """The package, in which `attach` is the function, also once the module of that name has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "attach" and isinstance(value, ModuleType):
            value = value.attach
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    """A public name, or a module of the package, which need not have been imported before."""
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        setattr(sys.modules[__name__], name, value)
        return value
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
moved.install()
