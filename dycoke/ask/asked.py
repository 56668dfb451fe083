"""What `dycoke ask` is given, and what of it can be refused before torch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dycoke.families.configs import config_file
from dycoke.nano import checkpoint_of
from dycoke.options import parse_options, split_methods
from dycoke.plans import read_choice, read_plan
from dycoke.video.reading import INDEX, PYAV, check_path, check_reader, check_sampling
from dycoke.video.routes import AUTO, ROUTES, check_route


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of `dycoke ask`; see its help.

    compare: as for `chosen_methods`, empty for one method alone; short: options of the method that have an option of
    their own.
    """

    video: str
    question: str
    frames: int
    method: str | None
    compare: Sequence[str]
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
    texts = [asked.method or "dycoke", *(text for given in asked.compare for text in split_methods(given))]
    for plan in (asked.plan, *(read_choice(text).plan for text in texts)):
        if plan is not None:
            read_plan(plan)
    if asked.model is not None:
        config_file(checkpoint_of(asked.model))
