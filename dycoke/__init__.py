"""DyCoke: training-free visual-token compression for video language models."""

from dycoke import methods as _methods  # noqa: F401  registers every method
from dycoke.attach import Run, apply, attach, attached, remove
from dycoke.plans import build_plan, load_plan
from dycoke.registry import available, build, register
from dycoke.types import Compressed, Plan, VisualTokens

__all__ = [
    "Compressed",
    "Plan",
    "Run",
    "VisualTokens",
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
