"""Experiments: a YAML file that names models, frames, tasks and methods, and the runs it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from dycoke.eval.specs import Launcher, MethodSpec, ModelSpec, RunSpec, slug, takes_list
from dycoke.options import parse_yaml, write_value
from dycoke.registry import entry

_NEEDED = ("model", "video", "tasks", "methods")
_KEYS = ("title", "paper", "include_path", *_NEEDED, "generation", "limit", "seed", "batch_size", "score", "launcher")
_FRAMES = "{frames}"
_Row = tuple[MethodSpec, list[int], list[str]]  # a method, numbers of frames, names of models
_ROW = ("label", "paper", "video", "models")  # of a method, beside its own options


@dataclass(frozen=True)
class Experiment:
    """An experiment: its name (the file's stem), the runs in the order of its tables, and the published table.

    include_path: folders with tasks of the user's own, as lmms-eval takes them.
    """

    name: str
    title: str
    paper: str | None
    runs: tuple[RunSpec, ...]
    include_path: tuple[str, ...] = ()


def load_experiment(path: str | Path, name: str | None = None) -> Experiment:
    """The experiment in a YAML file, called by the file's stem unless it has another name.

    A list of models, of frames, or of values of an option is a sweep: each combination is a run, for each task.
    Raises ValueError of one line, naming file and key, for whatever cannot be read, is unknown or out of range;
    whether a task or a checkpoint exists is found when it is loaded.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text") from error
    try:
        return parse_experiment(name or path.stem, parse_yaml(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_experiment(name: str, content: Any) -> Experiment:
    """The experiment that a mapping describes. Raises ValueError, naming the key."""
    if slug(name) != name:
        raise ValueError(
            f"the experiment's name {name!r} is to be a folder's: letters, digits, dots, dashes, underscores"
        )
    _check_keys(content, _KEYS, _NEEDED)
    common = {
        "experiment": name,
        "limit": _count(content, "limit", None),
        "seed": _count(content, "seed", 0, lowest=0),
        "batch_size": _count(content, "batch_size", 1),
        "generation": _mapping(content, "generation"),
        "score": _flag(content, "score", True),
    }
    launcher = _launcher(content.get("launcher") or {})
    models = [_model(each, launcher) for each in _listed(content["model"])]
    frames = _frames(content["video"], "video")
    known = [model.name for model in models]
    rows = [row for number, each in enumerate(_list(content, "methods")) for row in _rows(each, frames, known, number)]
    tasks = [_text(task, "tasks") for task in _list(content, "tasks")]
    runs = tuple(
        RunSpec(model=model, frames=count, method=_at(method, count), task=task, **common)
        for model in models
        for method, counts, names in rows
        if model.name in names
        for count in counts
        for task in tasks
    )
    _check_unique(runs)
    title, paper = _text(content.get("title", name), "title"), content.get("paper")
    include = [_text(folder, "include_path") for folder in _listed(content.get("include_path") or [])]
    return Experiment(name, title, paper, runs, tuple(include))


def _check_keys(content: Any, known: Iterable[str], needed: Iterable[str]) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a mapping with the keys {', '.join(needed)}")
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise ValueError(f"unknown key {', '.join(unknown)}; accepts: {', '.join(known)}")
    missing = [key for key in needed if content.get(key) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")


def _model(content: Any, launcher: Launcher) -> ModelSpec:
    try:
        _check_keys(content, [field.name for field in fields(ModelSpec)], ("id", "pretrained"))
        own = _launcher(content["launcher"]) if content.get("launcher") else launcher
        return ModelSpec(content["id"], content["pretrained"], content.get("args") or {}, own)
    except ValueError as error:
        raise ValueError(f"model: {error}") from error


def _launcher(content: Any) -> Launcher:
    try:
        _check_keys(content, [field.name for field in fields(Launcher)], ())
        return Launcher(**content)
    except ValueError as error:
        raise ValueError(f"launcher: {error}") from error


def _frames(content: Any, key: str) -> list[int]:
    """The numbers of frames under a key `video`."""
    _check_video(content, key)
    counts = _listed(content["frames"])
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{key}: frames={count!r}: expected an integer of at least 1, or a list of such")
    return counts


def _check_video(content: Any, key: str) -> None:
    try:
        _check_keys(content, ("frames",), ("frames",))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _rows(content: Any, frames: list[int], models: list[str], number: int) -> list[_Row]:
    """The rows an entry stands for, one for each combination of its options; frames and models are the file's."""
    try:
        given = {"name": content} if isinstance(content, str) else content
        if not isinstance(given, Mapping) or ("name" in given) == ("plan" in given):
            raise ValueError(f"{content!r}: expected a method's name, or a mapping with either name or plan")
        frames = _frames(given["video"], "video") if "video" in given else frames
        models = _chosen(given["models"], models) if "models" in given else models
        label, paper = given.get("label"), given.get("paper")
        if "plan" in given:
            _check_keys(given, ("plan", *_ROW), ("plan",))
            found = [MethodSpec(plan=given["plan"], label=label or "", paper=paper)]
            found = [replace(each, label=each.label or each.slug) for each in found if each.build()]
        else:
            found = _variants(given, label, paper)
        return [(method, frames, models) for method in found]
    except ValueError as error:
        raise ValueError(f"methods[{number}]: {error}") from error


def _chosen(names: Any, models: list[str]) -> list[str]:
    """The models an entry names, by the last part of their checkpoint's name."""
    if not isinstance(names, list) or not names or any(name not in models for name in names):
        raise ValueError(f"models={names!r}: expected a list out of {', '.join(models)}")
    return names


def _variants(given: Mapping[str, Any], label: str | None, paper: str | None) -> list[MethodSpec]:
    name = given["name"]
    entry(_text(name, "name"))
    options = {key: value for key, value in given.items() if key not in ("name", *_ROW)}
    choices = [_choices(value, takes_list(name, key)) for key, value in options.items()]
    found = []
    for values in product(*choices):
        chosen = dict(zip(options, values, strict=True))
        method = MethodSpec(
            name, chosen, None, _filled(label, chosen) or _described(name, chosen), _filled(paper, chosen)
        )
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
    """A label or a published row's key, with {k} standing for the option k; {frames} is filled in by `_at`."""
    if text is None:
        return None
    try:
        return _text(text, "label and paper").format(**{"frames": _FRAMES, **options})
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{text!r}: expected {{}} around names of options given here, or frames: {', '.join(options)}"
        ) from error


def _at(method: MethodSpec, frames: int) -> MethodSpec:
    """The method with its number of frames in label and published row, where they name it."""
    texts = {"label": method.label, "paper": method.paper}
    return replace(method, **{key: text and text.replace(_FRAMES, str(frames)) for key, text in texts.items()})


def _described(name: str, options: Mapping[str, Any]) -> str:
    return " ".join([name, *(f"{key}={write_value(value)}" for key, value in options.items())])


def _check_unique(runs: tuple[RunSpec, ...]) -> None:
    seen: set[str] = set()
    for run in runs:
        if run.id in seen:
            raise ValueError(f"{run.id}: the same run twice, or two that their names do not tell apart")
        seen.add(run.id)
    if not runs:
        raise ValueError("no runs: model, frames, tasks and methods each need one entry at least")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(content[key], list) or not content[key]:
        raise ValueError(f"{key}={content[key]!r}: expected a list")
    return content[key]


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key}: {value!r}: expected a text")
    return value


def _count(content: Mapping[str, Any], key: str, default: int | None, lowest: int = 1) -> int | None:
    value = content.get(key, default)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < lowest):
        raise ValueError(f"{key}={value!r}: expected an integer of at least {lowest}")
    return value


def _flag(content: Mapping[str, Any], key: str, default: bool) -> bool:
    if not isinstance(content.get(key, default), bool):
        raise ValueError(f"{key}={content[key]!r}: expected true or false")
    return content.get(key, default)


def _mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}={value!r}: expected a mapping")
    return value
