"""What an experiment is made of: models, methods, launchers, and the runs they make together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dycoke.families import lmms_eval_models
from dycoke.nano import EMBEDDED, checkpoint_of
from dycoke.plans import Choice
from dycoke.registry import entry
from dycoke.text.brief import brief
from dycoke.video.reading import INDEX, PYAV

AUTO = "auto"
_OURS = ("pretrained", "max_frames_num", "batch_size", "method", "method_options", "plan", "dycoke", "samples")


@dataclass(frozen=True)
class Launcher:
    """How the processes of a run start.

    processes: on each machine, each with a whole model and its share of the samples; machines: how many take part.
    cpu: no GPU is used. device_map="auto": one process, the layers of one model spread over all GPUs. deepspeed: a
    JSON file; one model is sharded over all processes, and each of them sees every sample. port: of the main process.
    Raises ValueError for counts below 1 and for settings that exclude each other.
    """

    processes: int = 1
    machines: int = 1
    cpu: bool = False
    device_map: str | None = None
    deepspeed: str | None = None
    port: int | None = None

    def __post_init__(self) -> None:
        for name in ("processes", "machines", "port"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}={brief(value)}: expected an integer of at least 1")
        if not isinstance(self.cpu, bool):
            raise ValueError(f"cpu={brief(self.cpu)}: expected true or false")
        if self.device_map not in (None, "auto"):
            raise ValueError(f"device_map={brief(self.device_map)}: expected auto, or nothing for one GPU a process")
        if self.deepspeed is not None and not isinstance(self.deepspeed, str):
            raise ValueError(f"deepspeed={brief(self.deepspeed)}: expected the path of a JSON file")
        if self.deepspeed and self.count < 2:
            raise ValueError("deepspeed shards a model over several processes; give processes")
        if self.device_map and (self.count > 1 or self.cpu or self.deepspeed):
            raise ValueError(
                "device_map=auto spreads one process over the GPUs; leave processes, cpu and deepspeed out"
            )

    @property
    def count(self) -> int:
        """Processes on all machines."""
        return self.processes * self.machines


@dataclass(frozen=True)
class ModelSpec:
    """A model of lmms-eval: its id, the checkpoint (a folder, a hub name or "nano"), and further model arguments.

    Raises ValueError for an id that takes no method, and for an argument that the experiment sets by itself.
    """

    id: str
    pretrained: str
    args: Mapping[str, Any] = field(default_factory=dict)
    launcher: Launcher = Launcher()

    def __post_init__(self) -> None:
        if self.id not in lmms_eval_models():
            raise ValueError(f"id {brief(self.id)}: expected one of {', '.join(lmms_eval_models())}")
        if not isinstance(self.pretrained, str) or not self.pretrained:
            raise ValueError(f"pretrained {brief(self.pretrained)}: expected a folder, a hub name or {EMBEDDED}")
        if not isinstance(self.args, Mapping):
            raise ValueError(f"args {brief(self.args)}: expected a mapping of model arguments")
        for name in self.args:
            if name in _OURS or str(name).startswith("dycoke_"):
                raise ValueError(f"args: {name} is set by the experiment; leave it out")

    @property
    def name(self) -> str:
        """Last part of the checkpoint's name."""
        return self.pretrained.rstrip("/").rsplit("/", 1)[-1]

    @property
    def checkpoint(self) -> str:
        """What the model is loaded from."""
        return checkpoint_of(self.pretrained)


@dataclass(frozen=True)
class MethodSpec(Choice):
    """A registered method with the options given, or the mapping of a plan; the rest is for the report.

    label: what a row is called. paper: key of the published row beside it, None if there is none. section: heading of
    the rows it is compared with, "" if it stands under none.
    """

    label: str = ""
    paper: str | None = None
    section: str = ""

    @property
    def slug(self) -> str:
        """A name for folders: dycoke-k0.7-l3, or the methods of a plan by stage."""
        if self.plan is None:
            return slug("-".join([self.name, *(f"{key}{_plain(value)}" for key, value in self.options.items())]))
        return slug("-".join(f"{stage}-{_plain(value)}" for stage, value in self.plan.items()))


@dataclass(frozen=True)
class RunSpec:
    """One model, number of frames, method and task: what one row has in one task's columns.

    batch_size: rows, or "auto" for as many as the model finds room for. reader, sampling: who reads the frames of a
    video, and which (see `dycoke.video.frames.read_frames`).
    """

    experiment: str
    model: ModelSpec
    frames: int
    method: MethodSpec
    task: str
    limit: int | None = None
    seed: int = 0
    batch_size: int | str = 1
    generation: Mapping[str, Any] = field(default_factory=dict)
    score: bool = True
    reader: str = PYAV
    sampling: str = INDEX

    @property
    def id(self) -> str:
        unusual = [name for name, usual in ((self.reader, PYAV), (self.sampling, INDEX)) if name != usual]
        frames = "-".join([f"f{self.frames}", *unusual])
        return f"{slug(self.model.name)}_{frames}_{self.method.slug}__{slug(self.task)}"

    @property
    def launcher(self) -> Launcher:
        return self.model.launcher

    def config(self) -> dict[str, Any]:
        """What the run's folder says of it, in plain values."""
        model = {"id": self.model.id, "pretrained": self.model.pretrained, "args": dict(self.model.args)}
        method = {"name": self.method.name, "options": dict(self.method.options)}
        return {
            "run": self.id,
            "experiment": self.experiment,
            "model": model,
            "frames": self.frames,
            "reader": self.reader,
            "sampling": self.sampling,
            "method": method if self.method.plan is None else {"plan": self.method.plan},
            "label": self.method.label,
            "paper": self.method.paper,
            "task": self.task,
            "limit": self.limit,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "generation": dict(self.generation),
            "score": self.score,
            "launcher": {key: value for key, value in asdict(self.launcher).items() if value is not None},
        }


def slug(text: str) -> str:
    """A text as a part of a file name: letters, digits, dots, dashes and underscores, none of them twice."""
    return re.sub(r"-+", "-", re.sub(r"[^A-Za-z0-9._]+", "-", text)).strip("-._")


def takes_list(name: str, option: str) -> bool:
    """Whether an option's value is a list by itself, as pdrop's layers are. Raises ValueError for an unknown name."""
    default = entry(name).options.get(option, (None, ""))[0]
    return isinstance(default, tuple)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "-".join(f"{key}{_plain(each)}" if key != "name" else _plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return "-".join(map(_plain, value))
    return str(value)
