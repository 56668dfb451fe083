"""Choosing a method: from a text, a mapping, the YAML file of a plan, or an object; and what a plan's file says.

`choose` is the door of `dycoke ask`, the loader's keywords, lmms-eval's arguments and experiments alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dycoke.registry import STAGES, available, build_with, entry
from dycoke.text.brief import LINE, brief, shorten
from dycoke.types import Method, Plan

_PLAN_FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class Choice:
    """A method that was asked for, by its name with options of its own, or a plan; not built yet.

    plan: as `build_plan` takes it, the file of one, or a plan or method that is built already; None beside a name.
    """

    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    plan: Any = None

    def beside(self, options: Mapping[str, Any], here: str, there: str) -> Choice:
        """The choice with further options, named `there` in the refusal, `here` being what the choice was read from.

        Raises ValueError for an option given in both, and for options beside a plan.
        """
        if options and self.plan is not None:
            raise ValueError(f"{there} beside {here}: the options of a plan stand in it")
        twice = sorted(set(self.options) & set(options))
        if twice:
            raise ValueError(f"{', '.join(twice)} given in {here} and in {there}; leave one")
        return replace(self, options={**self.options, **options})

    def build(self) -> Method | Plan:
        """The method, or the plan. Raises ValueError for an unknown name or option and for a value out of range."""
        if isinstance(self.plan, Method | Plan):
            return self.plan
        if isinstance(self.plan, str | Path):
            return load_plan(self.plan)
        if self.plan is not None:
            return build_plan(self.plan)
        try:
            return build_with(self.name, self.options)
        except TypeError as error:  # an unknown option, or a value of a wrong type
            raise ValueError(str(error)) from error


def choose(given: Any) -> Method | Plan:
    """The method or plan that was asked for: `read_choice(given)`, built. Raises ValueError of one line."""
    return read_choice(given).build()


def read_choice(given: Any) -> Choice:
    """What was asked for, in any of its forms.

    "dycoke", or "dycoke,k=0.5,l=3" with values in YAML; {"name": "dycoke", "k": 0.5}, or with the key "method"; the
    path of a plan's .yaml or .yml file; {"before": "vidcom2", "decode": "dycoke,l=5"}, or such a mapping, a path or an
    object under the one key "plan"; a `Plan` or a method from `build`. A name is not looked up before it is built.
    Raises ValueError for anything else, and for options that cannot be read.
    """
    if isinstance(given, Path) or (isinstance(given, Method | Plan) and not isinstance(given, type)):
        return Choice(plan=given)
    if isinstance(given, str):
        return Choice(plan=Path(given)) if _is_plan_file(given) else Choice(*method_of(given))
    if isinstance(given, Mapping) and set(given) == {"plan"} and given["plan"] is not None:
        return Choice(plan=given["plan"])
    if isinstance(given, Mapping) and given and set(given) <= set(STAGES):
        return Choice(plan=given)
    if not isinstance(given, Mapping) or "plan" in given or not set(given) & {"name", "method"}:
        raise ValueError(f"{brief(given)}: expected a method's name, or a mapping with either name or plan")
    return Choice(*method_of(given))


def _is_plan_file(text: str) -> bool:
    return "," not in text and Path(text).suffix in _PLAN_FILES


def build_plan(spec: Mapping[str, Any]) -> Plan:
    """The plan that a mapping describes, such as {"before": "vidcom2", "decode": {"name": "dycoke", "l": 5}}.

    Its keys are among before, inside and decode. A value is a method's name, a text "name,option=value", or a mapping
    of `name` and the method's options; that stage of the method's own plan is taken, and its others are not.
    Raises ValueError, naming the stage, for whatever of this does not hold.
    """
    if not isinstance(spec, Mapping):
        raise ValueError(f"plan {brief(spec)}: expected a mapping of {', '.join(STAGES)} to methods")
    unknown = [key for key in spec if key not in STAGES]
    if unknown or not spec:
        found = f"unknown key {', '.join(map(brief, unknown))}" if unknown else "an empty mapping"
        raise ValueError(f"plan: {found}; expected one or more of {', '.join(STAGES)}")
    return Plan(**{stage: _stage(stage, spec[stage]) for stage in STAGES if stage in spec})


def load_plan(path: str | Path) -> Plan:
    """The plan in a YAML file: what `build_plan` takes, at the top or under a key `plan` of its own.

    Raises ValueError of one line, naming the file, if it cannot be read or holds no such thing.
    """
    spec = plan_in(path)
    try:
        return build_plan(spec)
    except ValueError as error:
        raise ValueError(f"{path}: {shorten(str(error), LINE)}") from error


def plan_in(path: str | Path) -> Any:
    """What a file says of a plan, not looked into. Raises ValueError as `load_plan` does."""
    spec = read_plan(path)
    return spec["plan"] if isinstance(spec, Mapping) and set(spec) == {"plan"} else spec


def read_plan(path: str | Path) -> Any:
    """What the YAML file of a plan says, not looked into. Raises ValueError as `load_plan` does."""
    from dycoke.text.bounded_yaml import read_yaml  # here, because the benchmarks run where PyYAML is not installed

    try:
        return read_yaml(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def method_of(given: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of a method, of a text or a mapping. Raises ValueError for anything else."""
    from dycoke.options import parse_method  # as in read_plan

    if isinstance(given, str):
        return parse_method(given)
    key = "method" if isinstance(given, Mapping) and "method" in given else "name"
    if not isinstance(given, Mapping) or not isinstance(given.get(key), str):
        raise ValueError(f"{brief(given)}: expected a method's name, or a mapping of `name` and its options")
    strange = [option for option in given if not isinstance(option, str)]
    if strange:
        raise ValueError(f"{brief(given)}: option {brief(strange[0])}: expected the name of an option")
    return given[key], {option: value for option, value in given.items() if option != key}


def _stage(stage: str, value: Any) -> Any:
    try:
        name, options = method_of(value)
        part = getattr(build_with(name, options).plan(), stage)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{stage}: {error}") from error
    if part is None:
        given = f"{name} has no stage {stage!r}" + (" with these options" if stage in entry(name).stages else "")
        having = ", ".join(row for row in available() if stage in entry(row).stages)
        own = ", ".join(entry(name).stages)
        raise ValueError(f"{stage}: {given}; its stages: {own}; methods with {stage!r}: {having or 'none'}")
    return part
