"""What `dycoke ask` is given, and what of it can be refused before torch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dycoke.nano import checkpoint_of
from dycoke.options import parse_options
from dycoke.plans import read_plan
from dycoke.video.reading import INDEX, PYAV, check_path, check_reader, check_sampling
from dycoke.video.routes import AUTO, ROUTES, check_route


@dataclass(frozen=True)
class Asked:
    """The arguments of `dycoke ask`; see its help. short: options of the method that have an option of their own."""

    video: str
    question: str
    frames: int
    method: str | None
    compare: str | None
    plan: str | None
    short: Mapping[str, float]
    options: Sequence[str]
    model: str | None
    max_new_tokens: int
    device: str
    dtype: str
    preprocess: str
    reader: str = PYAV
    sampling: str = INDEX


def check_places(asked: Asked) -> None:
    """Raise ValueError or OSError for a video, a plan or a model that is not there, and for options that are no YAML or
    no way to make pixels.

    What else is wrong with them is found where they are read.
    """
    check_path(asked.video)
    check_reader(asked.reader)
    check_sampling(asked.sampling)
    check_route(asked.preprocess, (AUTO, *ROUTES))
    parse_options(asked.options)
    if asked.plan is not None:
        read_plan(asked.plan)
    if asked.model is not None:
        config_file(checkpoint_of(asked.model))


def config_file(name: str) -> Path:
    """The config.json of a checkpoint, a folder or a hub repository. Raises OSError or ValueError for none."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{name} is no model folder: it has no config.json")
        return folder / "config.json"
    if folder.exists():
        raise ValueError(f"{name} is a file; expected a model folder or the name of a hub repository")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json"))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{name} is no local folder, and the hub gives no config.json for it") from error
