"""Methods by name: `@register` puts a frozen dataclass in the table, `build` makes one with strict option checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar, cast

from dycoke.text.brief import LINE, brief, shorten
from dycoke.types import Method, Plan

C = TypeVar("C", bound=type)
STAGES: tuple[str, ...] = tuple(stage.name for stage in dataclasses.fields(Plan))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the method table.

    cls: the class; source, paper: where the method is described; code: where its authors' own code is; retention: the
    share of the visual tokens that is left, as a formula; official: the defaults of the authors' scripts; deviations:
    where this one differs from the published code, each with its reason. What its stages are and ask for is read off
    its plan at the defaults.
    """

    name: str
    cls: type
    source: str
    paper: str
    retention: str
    official: str
    deviations: tuple[str, ...] = ()
    code: str = ""

    @property
    def summary(self) -> str:
        return (self.cls.__doc__ or "").strip().splitlines()[0]

    @property
    def options(self) -> dict[str, tuple[Any, str]]:
        """Option name -> (default, what it means)."""
        return {f.name: (f.default, f.metadata.get("help", "")) for f in dataclasses.fields(self.cls)}

    @property
    def stages(self) -> tuple[str, ...]:
        """Which of the places before, inside and decode it fills, in that order."""
        plan = self.cls().plan()
        return tuple(stage for stage in STAGES if getattr(plan, stage) is not None)

    @property
    def needs(self) -> tuple[str, ...]:
        """What its compressor asks of the adapter, sorted."""
        return tuple(sorted(self.cls().plan().compressor.needs))

    @property
    def positions(self) -> str:
        """How the tokens it leaves in the prompt are numbered; "-" if it leaves the prompt alone."""
        plan = self.cls().plan()
        if plan.before is not None:
            return plan.before.positions
        return plan.pruners[0].positions if plan.pruners else "-"


_methods: dict[str, Entry] = {}
_OURS = "dycoke.methods."


def _registered() -> dict[str, Entry]:
    """The table, with our methods in it."""
    import_module(_OURS.rstrip("."))  # by name and not before it is asked for: its files import this one, and torch
    return _methods


def register(
    name: str,
    *,
    source: str,
    paper: str = "",
    retention: str = "",
    official: str = "",
    deviations: tuple[str, ...] = (),
    code: str = "",
) -> Callable[[C], C]:
    """Class decorator: make a frozen dataclass with a `plan()` known under `name`; the rest as in `Entry`.

    Raises ValueError if the name is taken, TypeError if the class is not a frozen dataclass with a `plan` method, a
    docstring and a plain default for every option, or if source, retention or official is empty.
    """

    def add(cls: C) -> C:
        known = _methods if cls.__module__.startswith(_OURS) else _registered()
        if name in known:
            raise ValueError(f"method {name!r} is registered already, by {known[name].cls.__qualname__}")
        if not (dataclasses.is_dataclass(cls) and cast(Any, cls).__dataclass_params__.frozen and hasattr(cls, "plan")):
            raise TypeError(f"method {name!r}: {cls.__qualname__} must be a frozen dataclass with a plan() method")
        if (cls.__doc__ or f"{cls.__name__}(").startswith(f"{cls.__name__}("):  # what dataclass writes by itself
            raise TypeError(f"method {name!r}: {cls.__qualname__} needs a docstring; its first line is the summary")
        bare = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        if bare:
            raise TypeError(f"method {name!r}: option {', '.join(bare)} of {cls.__qualname__} needs a plain default")
        texts = {"source": source, "retention": retention, "official": official}
        unsaid = [key for key, text in texts.items() if not text]
        if unsaid:
            raise TypeError(f"method {name!r}: @register needs {', '.join(unsaid)}, for the table of methods")
        if isinstance(deviations, str):
            raise TypeError(f"method {name!r}: deviations={deviations!r}: expected a tuple of sentences")
        _methods[name] = Entry(name, cls, source, paper, retention, official, deviations, code)
        return cls

    return add


def available() -> list[str]:
    """Names of the registered methods, sorted."""
    return sorted(_registered())


def entry(name: str) -> Entry:
    """The table row of a method. Raises ValueError naming the registered ones."""
    if name not in _registered():
        raise ValueError(f"unknown method {brief(name)}; available: {', '.join(available())}")
    return _methods[name]


def name_of(method: Method) -> str:
    """The name a method is registered under, or its class name."""
    return next((row.name for row in _methods.values() if row.cls is type(method)), type(method).__name__)


def build(name: str, **options: Any) -> Method:
    """The method `name` with these options.

    A list, which is what YAML has, becomes a tuple: methods are frozen. Raises ValueError for an unknown name or an
    option out of range, TypeError for an unknown option.
    """
    return build_with(name, options)


def build_with(name: str, options: Mapping[str, Any]) -> Method:
    """The method `name` with options whose names somebody else has chosen, "name" perhaps. Raises as `build` does."""
    row = entry(name)
    unknown = sorted(set(options) - set(row.options))
    if unknown:
        accepted = ", ".join(sorted(row.options)) or "no options"
        raise TypeError(f"{name}: unknown option {', '.join(map(brief, unknown))}; accepts: {accepted}")
    frozen = {option: tuple(value) if isinstance(value, list) else value for option, value in options.items()}
    try:
        return row.cls(**frozen)
    except (TypeError, ValueError) as error:
        if len(str(error)) <= LINE:
            raise
        raise type(error)(shorten(str(error), LINE)) from error
