"""The methods a command line asks for, with the options that belong to each, or a plan in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dycoke.options import parse_options
from dycoke.plans import load_plan
from dycoke.registry import available, build, entry
from dycoke.types import Method, Plan


def chosen_methods(
    method: str | None,
    compare: str | None,
    short: Mapping[str, float],
    options: Sequence[str],
    plan: str | None = None,
) -> dict[str, Method | Plan]:
    """Methods by name: the one asked for (dycoke by default), or those of compare="full,dycoke", in that order.

    short={"k": 0.5} is short for the option k=0.5. When several methods are compared, each takes the options it has.
    plan is a YAML file that says everything by itself. Raises ValueError for ways that exclude each other, unknown
    names, options none of the methods has, and values out of range.
    """
    if plan is not None:
        _check_alone(plan, method, compare, short, options)
        return {"plan": load_plan(plan)}
    if method is not None and compare is not None:
        raise ValueError(f"--method {method} and --compare {compare}: give one of them")
    names = [name.strip() for name in compare.split(",")] if compare is not None else [method or "dycoke"]
    if len(set(names)) < len(names):
        raise ValueError(f"--compare {compare}: a method is named twice")
    accepted = {name: set(entry(name).options) for name in names}
    values = parse_options(options)
    for option, value in short.items():
        _check_short(option, accepted, values)
        values[option] = value
    if len(names) > 1:
        _check_used(accepted, values)
    try:
        return {name: build(name, **(values if len(names) == 1 else _own(values, accepted[name]))) for name in names}
    except TypeError as error:  # an unknown option, or a value of a wrong type
        raise ValueError(str(error)) from error


def _check_alone(
    plan: str, method: str | None, compare: str | None, short: Mapping[str, float], options: Sequence[str]
) -> None:
    for name, value in (("method", method), ("compare", compare)):
        if value is not None:
            raise ValueError(f"--plan {plan} and --{name} {value}: give one of them")
    beside = [*(f"--{name}" for name in short), *(f"--option {option}" for option in options)]
    if beside:
        raise ValueError(f"--plan {plan} and {', '.join(beside)}: the options of a plan stand in its file")


def _own(values: dict, accepted: set[str]) -> dict:
    return {option: value for option, value in values.items() if option in accepted}


def _check_short(option: str, accepted: dict[str, set[str]], values: dict) -> None:
    if option in values:
        raise ValueError(f"--{option} and --option {option}={values[option]}: give one of them")
    if not any(option in options for options in accepted.values()):
        having = ", ".join(name for name in available() if option in entry(name).options)
        raise ValueError(f"--{option}: {', '.join(accepted)} has no option {option}; methods that have it: {having}")


def _check_used(accepted: dict[str, set[str]], values: dict) -> None:
    unused = sorted(set(values) - set().union(*accepted.values()))
    if unused:
        known = "; ".join(f"{name}: {', '.join(sorted(options)) or 'no options'}" for name, options in accepted.items())
        raise ValueError(f"unknown option {', '.join(unused)}; accepted are {known}")
