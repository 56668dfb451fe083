"""Methods by name: `@register` puts a frozen dataclass in the table, `build` makes one with strict option checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from dycoke.types import Method

C = TypeVar("C", bound=type)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the method table.

    cls: the class; source, paper: where the method is described; retention: the share of the visual tokens that is
    left, as a formula; official: the defaults of the authors' scripts; deviations: where this one differs from the
    published code, each with its reason.
    """

    name: str
    cls: type
    source: str
    paper: str
    retention: str = ""
    official: str = ""
    deviations: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        return (self.cls.__doc__ or "").strip().splitlines()[0]

    @property
    def options(self) -> dict[str, tuple[Any, str]]:
        """Option name -> (default, what it means)."""
        return {f.name: (f.default, f.metadata.get("help", "")) for f in dataclasses.fields(self.cls)}


_methods: dict[str, Entry] = {}


def register(
    name: str,
    *,
    source: str,
    paper: str = "",
    retention: str = "",
    official: str = "",
    deviations: tuple[str, ...] = (),
) -> Callable[[C], C]:
    """Class decorator: make a frozen dataclass with a `plan()` known under `name`; the rest as in `Entry`.

    Raises ValueError if the name is taken, TypeError if the class is not a frozen dataclass with a `plan` method, a
    docstring and a plain default for every option.
    """

    def add(cls: C) -> C:
        if name in _methods:
            raise ValueError(f"method {name!r} is registered already, by {_methods[name].cls.__qualname__}")
        if not (dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen and hasattr(cls, "plan")):
            raise TypeError(f"method {name!r}: {cls.__qualname__} must be a frozen dataclass with a plan() method")
        if (cls.__doc__ or f"{cls.__name__}(").startswith(f"{cls.__name__}("):  # what dataclass writes by itself
            raise TypeError(f"method {name!r}: {cls.__qualname__} needs a docstring; its first line is the summary")
        bare = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        if bare:
            raise TypeError(f"method {name!r}: option {', '.join(bare)} of {cls.__qualname__} needs a plain default")
        _methods[name] = Entry(name, cls, source, paper, retention, official, deviations)
        return cls

    return add


def available() -> list[str]:
    """Names of the registered methods, sorted."""
    return sorted(_methods)


def entry(name: str) -> Entry:
    """The table row of a method. Raises ValueError naming the registered ones."""
    if name not in _methods:
        raise ValueError(f"unknown method {name!r}; available: {', '.join(available())}")
    return _methods[name]


def name_of(method: Method) -> str:
    """The name a method is registered under, or its class name."""
    return next((row.name for row in _methods.values() if row.cls is type(method)), type(method).__name__)


def build(name: str, **options: Any) -> Method:
    """The method `name` with these options.

    Raises ValueError for an unknown name or an option out of range, TypeError for an unknown option.
    """
    row = entry(name)
    unknown = sorted(set(options) - set(row.options))
    if unknown:
        accepted = ", ".join(sorted(row.options)) or "no options"
        raise TypeError(f"{name}: unknown option {', '.join(map(repr, unknown))}; accepts: {accepted}")
    return row.cls(**options)
