"""Plans in YAML: a method's name for each place where visual tokens can be removed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dycoke.registry import STAGES, available, build, entry
from dycoke.text.brief import LINE, brief, shorten
from dycoke.types import Plan


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
    spec = read_plan(path)
    try:
        return build_plan(spec["plan"] if isinstance(spec, Mapping) and set(spec) == {"plan"} else spec)
    except ValueError as error:
        raise ValueError(f"{path}: {shorten(str(error), LINE)}") from error


def read_plan(path: str | Path) -> Any:
    """What the YAML file of a plan says, not looked into. Raises ValueError as `load_plan` does."""
    from dycoke.text.bounded_yaml import read_yaml  # here, because the benchmarks run where PyYAML is not installed

    try:
        return read_yaml(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _stage(stage: str, value: Any) -> Any:
    try:
        name, options = _named(value)
        part = getattr(build(name, **options).plan(), stage)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{stage}: {error}") from error
    if part is None:
        given = f"{name} has no stage {stage!r}" + (" with these options" if stage in entry(name).stages else "")
        having = ", ".join(row for row in available() if stage in entry(row).stages)
        own = ", ".join(entry(name).stages)
        raise ValueError(f"{stage}: {given}; its stages: {own}; methods with {stage!r}: {having or 'none'}")
    return part


def _named(value: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of a method, as a text or as a mapping. Raises ValueError for anything else."""
    from dycoke.options import parse_method  # as in load_plan

    if isinstance(value, str):
        return parse_method(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"{brief(value)}: expected a method's name, or a mapping of `name` and its options")
    strange = [option for option in value if not isinstance(option, str)]
    if strange:
        raise ValueError(f"{brief(value)}: option {brief(strange[0])}: expected the name of an option")
    return value["name"], {option: each for option, each in value.items() if option != "name"}
