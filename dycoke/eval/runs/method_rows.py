"""The entries of an experiment's `methods`, and the rows each of them stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from string import Formatter
from typing import Any

from dycoke.eval.runs.specs import MethodSpec, takes_list
from dycoke.eval.runs.values import check_keys, list_of, listed, text_of
from dycoke.options import write_value
from dycoke.plans import Choice, plan_in, read_choice
from dycoke.registry import entry
from dycoke.text.brief import brief

Row = tuple[MethodSpec, list[int], list[str]]
"""A method, numbers of frames, names of models."""

MOST = 10_000
"""Runs of an experiment, and rows."""

_LABEL = 1000  # characters
_FRAMES = "{frames}"
_ROW = ("label", "paper", "video", "models")  # of a method, beside its own options


def method_rows(entries: Sequence[Any], frames: list[int], models: list[str]) -> list[Row]:
    """The rows of entries, in order; frames and models are the file's. Raises ValueError, naming the entry.

    An entry is a method, or a section of the table: its heading, and entries of its own under `methods`.
    """
    found = []
    for number, each in enumerate(entries):
        sectioned = isinstance(each, Mapping) and "section" in each
        try:
            found += _section(each, frames, models) if sectioned else _rows(each, frames, models)
        except ValueError as error:
            raise ValueError(f"methods[{number}]: {error}") from error
    return found


def at_frames(method: MethodSpec, frames: int) -> MethodSpec:
    """The method with its number of frames in label and published row, where they name it."""
    texts = {"label": method.label, "paper": method.paper}
    return replace(method, **{key: text and text.replace(_FRAMES, str(frames)) for key, text in texts.items()})


def frame_counts(content: Any, key: str, beside: tuple[str, ...] = ()) -> list[int]:
    """The numbers of frames under a key `video`, which may hold these further keys."""
    try:
        check_keys(content, ("frames", *beside), ("frames",))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    counts = listed(content["frames"])
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{key}: frames={brief(count)}: expected an integer of at least 1, or a list of such")
    return counts


def _section(content: Mapping[str, Any], frames: list[int], models: list[str]) -> list[Row]:
    """The rows of a section. Raises ValueError for a section within it too."""
    check_keys(content, ("section", "methods"), ("section", "methods"))
    heading, entries = text_of(content["section"], "section"), list_of(content, "methods")
    rows = method_rows(entries, frames, models)
    if any(method.section for method, _, _ in rows):
        raise ValueError(f"section {brief(heading)} has a section within it; expected methods")
    return [(replace(method, section=heading), counts, names) for method, counts, names in rows]


def _rows(content: Any, frames: list[int], models: list[str]) -> list[Row]:
    """The rows an entry stands for, one for each combination of its options; frames and models are the file's."""
    beside = {key: content[key] for key in _ROW if key in content} if isinstance(content, Mapping) else {}
    asked = {key: value for key, value in content.items() if key not in beside} if beside else content
    frames = frame_counts(beside["video"], "video") if "video" in beside else frames
    models = _chosen(beside["models"], models) if "models" in beside else models
    label, paper = (None if beside.get(key) is None else text_of(beside[key], key) for key in ("label", "paper"))
    if isinstance(content, Mapping) and "plan" in content and "name" not in content:
        check_keys(content, ("plan", *_ROW), ("plan",))
    choice = read_choice(asked)
    found = _variants(choice, label, paper) if choice.plan is None else [_planned(choice.plan, label, paper)]
    return [(method, frames, models) for method in found]


def _planned(plan: Any, label: str | None, paper: str | None) -> MethodSpec:
    """The row of a plan, a mapping or the file of one. Raises ValueError for one that cannot be built."""
    method = MethodSpec(plan=plan_in(plan) if isinstance(plan, str | Path) else plan, label=label or "", paper=paper)
    method.build()
    return replace(method, label=method.label or method.slug)


def _chosen(names: Any, models: list[str]) -> list[str]:
    """The models an entry names, by the last part of their checkpoint's name."""
    if not isinstance(names, list) or not names or any(name not in models for name in names):
        raise ValueError(f"models={brief(names)}: expected a list out of {', '.join(models)}")
    return names


def _variants(asked: Choice, label: str | None, paper: str | None) -> list[MethodSpec]:
    """A row for each combination of the values of a method's options."""
    name, options = asked.name, asked.options
    entry(name)
    choices = [_choices(value, takes_list(name, key)) for key, value in options.items()]
    if prod(map(len, choices)) > MOST:
        raise ValueError(f"{prod(map(len, choices))} combinations of its options; expected at most {MOST}")
    found = []
    for values in product(*choices):
        chosen = dict(zip(options, values, strict=True))
        called = _filled(label, chosen) or _described(name, chosen)
        method = MethodSpec(name, chosen, label=called, paper=_filled(paper, chosen))
        method.build()
        found.append(method)
    return found


def _choices(value: Any, takes_list: bool) -> list[Any]:
    """The values of an option: those of a list, unless a list is what the option takes."""
    if not isinstance(value, list):
        return [value]
    if takes_list and not any(isinstance(each, list) for each in value):
        return [value]
    if not value:
        raise ValueError("an empty list of values")
    return value


def _filled(text: str | None, options: Mapping[str, Any]) -> str | None:
    """A label or a published row's key, with {k} standing for the option k; {frames} is filled in by `at_frames`.

    Names are all that may stand in braces: a format that Python takes would look into objects, or be as wide as it
    says.
    """
    if text is None:
        return None
    known, filled = {"frames": _FRAMES, **options}, ""
    try:
        for literal, name, form, conversion in Formatter().parse(text):
            if name is not None and (form or conversion):
                raise ValueError(name)
            filled += literal + ("" if name is None else str(known[name]))
            if len(filled) > _LABEL:
                break
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{brief(text)}: expected {{}} around names of options given here, or frames: {', '.join(options)}"
        ) from error
    if len(filled) > _LABEL:
        raise ValueError(f"{brief(text)}: more than {_LABEL} characters")
    return filled


def _described(name: str, options: Mapping[str, Any]) -> str:
    return " ".join([name, *(f"{key}={write_value(value)}" for key, value in options.items())])
