"""Experiments: a YAML file that names models, frames, tasks and methods, and the runs it stands for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from dycoke.eval.runs.method_rows import MOST, at_frames, frame_counts, method_rows
from dycoke.eval.runs.specs import AUTO, Launcher, ModelSpec, RunSpec, slug
from dycoke.eval.runs.values import check_keys, count_of, flag_of, list_of, listed, mapping_of, text_of
from dycoke.text.bounded_yaml import read_yaml
from dycoke.text.brief import LINE, brief, shorten
from dycoke.video.reading import INDEX, PYAV, check_reader, check_sampling

_NEEDED = ("model", "video", "tasks", "methods")
_READING = ("reader", "sampling")
_KEYS = ("title", "paper", "include_path", *_NEEDED, "generation", "limit", "seed", "batch_size", "score", "launcher")


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

    A list of models, of frames, or of values of an option is a sweep: each combination is a run, for each task. Rows of
    one model and number of frames that have the same label have what their runs are called behind it.
    Raises ValueError of one line, naming file and key, for whatever cannot be read, is unknown or out of range;
    whether a task or a checkpoint exists is found when it is loaded.
    """
    path = Path(path)
    try:
        return parse_experiment(name or path.stem, read_yaml(path))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text") from error
    except ValueError as error:
        raise ValueError(f"{path}: {shorten(str(error), LINE)}") from error


def parse_experiment(name: str, content: Any) -> Experiment:
    """The experiment that a mapping describes. Raises ValueError, naming the key."""
    if slug(name) != name:
        raise ValueError(
            f"the experiment's name {brief(name)} is to be a folder's: letters, digits, dots, dashes, underscores"
        )
    check_keys(content, _KEYS, _NEEDED)
    common = {
        "experiment": name,
        "limit": count_of(content, "limit", None),
        "seed": count_of(content, "seed", 0, lowest=0),
        "batch_size": _batch_size(content),
        "generation": mapping_of(content, "generation"),
        "score": flag_of(content, "score", True),
    }
    launcher = _launcher(content.get("launcher") or {})
    models = [_model(each, launcher) for each in listed(content["model"])]
    frames = frame_counts(content["video"], "video", _READING)
    common |= _reading(content["video"])
    known = [model.name for model in models]
    rows = method_rows(list_of(content, "methods"), frames, known)
    tasks = [text_of(task, "tasks") for task in list_of(content, "tasks")]
    _check_number(len(models) * len(tasks) * sum(len(counts) for _, counts, _ in rows))
    runs = tuple(
        RunSpec(model=model, frames=count, method=at_frames(method, count), task=task, **common)
        for model in models
        for method, counts, names in rows
        if model.name in names
        for count in counts
        for task in tasks
    )
    _check_unique(runs)
    runs = tuple(_told_apart(runs))
    title, paper = text_of(content.get("title", name), "title"), content.get("paper")
    if paper is not None:
        text_of(paper, "paper")
    include = [text_of(folder, "include_path") for folder in listed(content.get("include_path") or [])]
    return Experiment(name, title, paper, runs, tuple(include))


def _model(content: Any, launcher: Launcher) -> ModelSpec:
    try:
        check_keys(content, [field.name for field in fields(ModelSpec)], ("id", "pretrained"))
        own = _launcher(content["launcher"]) if content.get("launcher") else launcher
        return ModelSpec(content["id"], content["pretrained"], content.get("args") or {}, own)
    except ValueError as error:
        raise ValueError(f"model: {error}") from error


def _reading(video: Any) -> dict[str, str]:
    """Who reads the frames of videos, and which ones."""
    reader, sampling = video.get("reader", PYAV), video.get("sampling", INDEX)
    try:
        check_reader(reader)
        check_sampling(sampling)
    except ValueError as error:
        raise ValueError(f"video: {error}") from error
    return {"reader": reader, "sampling": sampling}


def _batch_size(content: Any) -> int | str:
    if content.get("batch_size") == AUTO:
        return AUTO
    try:
        return count_of(content, "batch_size", 1)
    except ValueError as error:
        raise ValueError(f"{error}, or {AUTO}") from error


def _launcher(content: Any) -> Launcher:
    try:
        check_keys(content, [field.name for field in fields(Launcher)], ())
        return Launcher(**content)
    except ValueError as error:
        raise ValueError(f"launcher: {error}") from error


def _check_number(runs: int) -> None:
    if runs > MOST:
        raise ValueError(f"{runs} runs, of all models, frames, methods and tasks together; expected at most {MOST}")


def _check_unique(runs: tuple[RunSpec, ...]) -> None:
    seen: set[str] = set()
    for run in runs:
        if run.id in seen:
            raise ValueError(f"{run.id}: the same run twice, or two that their names do not tell apart")
        seen.add(run.id)
    if not runs:
        raise ValueError("no runs: model, frames, tasks and methods each need one entry at least")


def _told_apart(runs: tuple[RunSpec, ...]) -> Iterator[RunSpec]:
    """The runs, those of several methods under one label with labels of their own."""
    called: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for run in runs:
        called[run.model.name, run.frames, run.method.label].add(run.method.slug)
    for run in runs:
        method = run.method
        if len(called[run.model.name, run.frames, method.label]) > 1:
            method = replace(method, label=f"{method.label} ({method.slug})")
        yield replace(run, method=method)
