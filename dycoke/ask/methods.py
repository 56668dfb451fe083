"""The methods a command line asks for, with the options that belong to each, or a plan in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dycoke.options import parse_options, split_methods
from dycoke.plans import Choice, choose, read_choice
from dycoke.registry import available, entry
from dycoke.types import Method, Plan


def chosen_methods(
    method: str | None,
    compare: Sequence[str],
    short: Mapping[str, float],
    options: Sequence[str],
    plan: str | None = None,
) -> dict[str, Method | Plan]:
    """Methods by what they were called: the one asked for (dycoke by default), or those that are compared, in order.

    A method is called as `read_choice` reads a text: "dycoke", "dycoke,k=.3", or the file of a plan. compare: such
    texts, or several in one as in "full,dycoke,k=.3". short={"k": 0.5} is short for the option k=0.5. These options,
    unlike those written with a method, are for all: when several methods are compared, each takes those it has. plan
    is a YAML file that says everything by itself.
    Raises ValueError for ways that exclude each other, unknown names, options none of the methods has or that are given
    twice, and values out of range.
    """
    if plan is not None:
        _check_alone(plan, method, compare, short, options)
        return {"plan": choose(Path(plan))}
    if method is not None and compare:
        raise ValueError(f"--method {method} and --compare {','.join(compare)}: give one of them")
    texts = [text for given in compare for text in split_methods(given)] or [method or "dycoke"]
    choices = {text: read_choice(text) for text in texts}
    _check_once(texts, choices)
    shared = _shared(choices, short, parse_options(options))
    if len(choices) == 1:
        return {text: _with(text, choice, shared).build() for text, choice in choices.items()}
    _check_used(choices, shared)
    return {text: _with(text, choice, _own(shared, choice)).build() for text, choice in choices.items()}


def _check_alone(
    plan: str, method: str | None, compare: Sequence[str], short: Mapping[str, float], options: Sequence[str]
) -> None:
    for name, value in (("method", method), ("compare", ",".join(compare) or None)):
        if value is not None:
            raise ValueError(f"--plan {plan} and --{name} {value}: give one of them")
    beside = [*(f"--{name}" for name in short), *(f"--option {option}" for option in options)]
    if beside:
        raise ValueError(f"--plan {plan} and {', '.join(beside)}: the options of a plan stand in its file")


def _check_once(texts: Sequence[str], choices: Mapping[str, Choice]) -> None:
    found: list[Choice] = []
    for text in texts:
        if choices[text] in found:
            raise ValueError(f"--compare {text}: the method is named twice, with the same options")
        found.append(choices[text])


def _accepted(choice: Choice) -> set[str]:
    """The options a choice can be given, none where it is a plan. Raises ValueError for an unknown method."""
    return set() if choice.plan is not None else set(entry(choice.name).options)


def _own(shared: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    return {option: value for option, value in shared.items() if option in _accepted(choice)}


def _with(text: str, choice: Choice, shared: Mapping[str, Any]) -> Choice:
    named = sorted(set(shared) & set(choice.options)) or shared
    return choice.beside(shared, text, ", ".join(f"--option {option}" for option in named))


def _shared(choices: Mapping[str, Choice], short: Mapping[str, float], options: dict[str, Any]) -> dict[str, Any]:
    """The options for all methods. Raises ValueError for a short one that is given twice, or that no method has."""
    for option, value in short.items():
        if option in options:
            raise ValueError(f"--{option} and --option {option}={options[option]}: give one of them")
        if not any(option in _accepted(choice) for choice in choices.values()):
            having = ", ".join(name for name in available() if option in entry(name).options)
            raise ValueError(f"--{option}: {', '.join(choices)} has no option {option}; methods that have it: {having}")
        options[option] = value
    return options


def _check_used(choices: Mapping[str, Choice], shared: Mapping[str, Any]) -> None:
    accepted = {text: _accepted(choice) for text, choice in choices.items()}
    unused = sorted(set(shared) - set().union(*accepted.values()))
    if unused:
        known = "; ".join(f"{text}: {', '.join(sorted(options)) or 'no options'}" for text, options in accepted.items())
        raise ValueError(f"unknown option {', '.join(unused)}; accepted are {known}")
