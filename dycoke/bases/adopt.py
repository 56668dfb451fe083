"""Objects that follow a protocol of `dycoke.types` without its base: checked and completed once, where they come in.

A plan does so with its stages, a prefill with what their `start` gave it; `dycoke.bases.state` does it with the states
of policies. Everything behind reads plain attributes.
"""

from __future__ import annotations

import inspect
import weakref
from difflib import get_close_matches
from types import FunctionType
from typing import Any

from dycoke.bases.stage import Before, Decode, Inside
from dycoke.types import POSITIONS, Compressor, DecodePolicy, LayerPruner, check_choice

_KINDS = {"before": (Compressor, Before), "inside": (LayerPruner, Inside), "decode": (DecodePolicy, Decode)}
_ACCEPTED = {
    "positions": POSITIONS,
    "observes": ("previous", "own", "nothing"),
    "counts": ("left", "entered"),
    "dp_cache": ("device", "host"),
}
_ALIKE = 0.85  # of two names, as difflib has it: "evict" and "evicts" have .91, "state" and "start" .80
_NOTHING = object()
_passed: dict[str, weakref.WeakSet[type]] = {place: weakref.WeakSet() for place in _KINDS}  # classes with their base


def adopted(place: str, stage: Any) -> Any:
    """The stage of a plan at `place`, "before", "inside" or "decode", with the defaults of what it leaves unsaid.

    One with the base of its place comes back itself, another in an `Adopted`. Raises TypeError where the protocol is
    not followed, and for an attribute that is nearly one that a stage may have; ValueError for a value out of its set.
    """
    protocol, base = _KINDS[place]
    if isinstance(stage, Adopted):
        if stage._place == place:
            return stage
        stage = stage._stage
    if not isinstance(stage, protocol):
        raise TypeError(f"Plan.{place}: {stage!r} is not a {protocol.__name__}")
    if type(stage) not in _passed[place]:
        _refuse_misspelt(place, stage, protocol, base)
    if isinstance(stage, base):
        _passed[place].add(type(stage))
    else:  # the name is for messages, which speak of the stranger's class
        stage = type(type(stage).__name__, (Adopted,), {})(place, stage, base)
    for name in _ACCEPTED.keys() & set(dir(base)):
        check_choice(name, getattr(stage, name), _ACCEPTED[name])
    return stage


class Adopted:
    """A stranger's stage, and what it does not say as the base of its place says it."""

    def __init__(self, place: str, stage: Any, base: type) -> None:
        vars(self).update(_place=place, _stage=stage, _base=base)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_stage" not in vars(self):  # asked while it is copied
            raise AttributeError(name)
        try:
            return getattr(self._stage, name)
        except AttributeError:
            default = inspect.getattr_static(self._base, name, _NOTHING)
            if default is _NOTHING or inspect.getattr_static(self._stage, name, _NOTHING) is not _NOTHING:
                raise
        return default.__get__(self) if isinstance(default, FunctionType | property) else default

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._stage, name, value)

    def __eq__(self, other: object) -> bool:
        return self._stage == (other._stage if isinstance(other, Adopted) else other)

    def __hash__(self) -> int:
        return hash(self._stage)

    def __repr__(self) -> str:
        return repr(self._stage)

    def __reduce__(self) -> tuple[Any, ...]:
        return adopted, (self._place, self._stage)


def _refuse_misspelt(place: str, stage: Any, protocol: type, base: type) -> None:
    """Raise TypeError for a public attribute nobody reads whose name and kind are nearly those of one that is read."""
    read = {name for name in {*dir(base), *dir(protocol)} if not name.startswith("_") and name != "plan"}
    # A torch module lists its parts, which are no attributes to who only looks.
    static = {name: inspect.getattr_static(stage, name, _NOTHING) for name in dir(stage) if not name.startswith("_")}
    defaults = {name: inspect.getattr_static(base, name, _NOTHING) for name in read}
    unsaid = [name for name in read if static.get(name, defaults[name]) is defaults[name]]
    for name in sorted(static.keys() - read - {"plan"}):
        for meant in get_close_matches(name, unsaid, 1, _ALIKE):
            if _alike(static[name], defaults[meant]):
                raise TypeError(
                    f"Plan.{place}: {type(stage).__name__} has {name}={getattr(stage, name)!r}, which nobody reads; "
                    f"did you mean {meant}? Read are {', '.join(sorted(read))}; begin a name of your own with _"
                )


def _alike(value: Any, default: Any) -> bool:
    """Whether a value is of the kind of a default: a method, or of its type. Of a property's value nothing is known."""
    if isinstance(value, FunctionType) or isinstance(default, FunctionType):
        return isinstance(value, FunctionType) and isinstance(default, FunctionType)
    return isinstance(value, property) or isinstance(default, property) or type(value) is type(default)
