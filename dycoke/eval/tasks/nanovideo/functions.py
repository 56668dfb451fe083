"""NanoVideoBench as tasks of lmms-eval, one per family: short answers are right or wrong, long ones scored by words.

`score` is the metric of either kind, so that a mean over all families has a name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datasets import Dataset

from dycoke.eval.runs.values import check_keys, count_of, text_of
from dycoke.eval.runs.word_f1 import ordered_f1
from dycoke.nano.benchmark import cached_video, documents

_SETTINGS = ("split", "videos", "level", "start")


def _family(name: str) -> Callable[[Dataset], Dataset]:
    """Maker of a family's questions from a table with one row: split, videos (how many), level and start.

    It raises ValueError for another table, and as `documents` does.
    """

    def questions(settings: Dataset) -> Dataset:
        if len(settings) != 1:
            raise ValueError(f"data_files: a table of {len(settings)} rows: expected one, with {', '.join(_SETTINGS)}")
        setting = settings[0]
        check_keys(setting, _SETTINGS, ())
        for key in ("split", "level"):
            if key in setting:
                text_of(setting[key], key)
        for key, least in (("videos", 1), ("start", 0)):
            count_of(setting, key, least, least)
        return Dataset.from_list(documents(**setting, families=(name,)))

    return questions


direction = _family("direction")
moving_count = _family("moving_count")
existence = _family("existence")
order = _family("order")
state = _family("state")
position = _family("position")
occlusion = _family("occlusion")
speed = _family("speed")
digits = _family("digits")
flash_count = _family("flash_count")
events = _family("events")
transcript = _family("transcript")


def video(doc: dict[str, Any]) -> list[str]:
    """Path of the video a question is about, which is made if it is not there."""
    return [str(cached_video(doc["split"], doc["level"], doc["number"]))]


def exact_match(doc: dict[str, Any], answers: list[str]) -> dict[str, float]:
    right = float(answers[0] == doc["answer"])
    return {"exact_match": right, "score": right}


def word_f1(doc: dict[str, Any], answers: list[str]) -> dict[str, float]:
    found = ordered_f1(answers[0], doc["answer"])
    return {"word_f1": found, "score": found}
