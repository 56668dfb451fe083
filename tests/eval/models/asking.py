"""Questions as lmms-eval puts them to a model, without its tasks, and files that they are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lmms_eval.api.instance import Instance
from PIL import Image

from dycoke.eval.runs.samples import Samples
from tests.eval.miniatures.videos import write_scene

TASK = "pretend"
GREEDY = {"max_new_tokens": 12, "temperature": 0, "do_sample": False}


@dataclass(frozen=True)
class Doc:
    """A question and what a task shows with it: paths of videos, pictures, or nothing."""

    question: str
    visuals: tuple[Any, ...] = ()


def show(doc: Doc) -> list[Any]:
    """What a task's doc_to_visual does."""
    return list(doc.visuals)


def requests(
    docs: Sequence[Doc],
    task: str = TASK,
    generation: Mapping[str, Any] = GREEDY,
    visual: Callable[[Doc], list[Any]] = show,
    **metadata: Any,
) -> list[Instance]:
    """One for each document, each with generation settings of its own: the built-in models write into them."""
    return [
        Instance(
            "generate_until",
            (doc.question, dict(generation), visual, number, task, "test"),
            0,
            {"task": task, "doc_id": number, "repeats": 1, **metadata},
        )
        for number, doc in enumerate(docs)
    ]


def answer(model: Any, docs: Sequence[Doc], task: str = TASK, **asked: Any) -> list[str]:
    """The model's answers about the documents of one task; further arguments are those of `requests`."""
    model.task_dict[task] = {"test": docs}
    return model.generate_until(requests(docs, task, **asked))


class Kept(Samples):
    """Samples that can be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def add(self, sample) -> None:
        super().add(sample)
        self.lines.append(dict(sample))

    def new_tokens(self) -> list[int]:
        """Of each answer, by document."""
        return [line["new_tokens"] for line in sorted(self.lines, key=lambda line: line["doc_id"])]


def keeping(model: Any) -> Kept:
    """The samples of what the model answers from now on."""
    model.samples = Kept()
    return model.samples


def write_videos(folder: Path, count: int) -> list[str]:
    """Paths of mp4 files of different scenes."""
    files = [folder / f"video{number}.mp4" for number in range(count)]
    for number, file in enumerate(files):
        write_scene(file, number)
    return [str(file) for file in files]


def write_frames(folder: Path, count: int = 12) -> str:
    """Path of a folder of numbered pictures, as a video may come in, one of them out of order."""
    folder.mkdir()
    for number in (count, *range(1, count)):
        picture(number, (64, 48)).save(folder / f"{number:05d}.jpg")
    return str(folder)


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Noise of (width, height) that no other seed gives."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def telling(rows: list[list[Any]]) -> Any:
    """What stands at different places of some rows, not at their start, and not in all of them."""
    for each in dict.fromkeys(each for row in rows for each in row if each is not None):
        places = [row.index(each) for row in rows if each in row]
        if len(set(places)) > 1 and len(places) < len(rows) and min(places) > 1:
            return each
    raise AssertionError(f"nothing tells {rows} apart; change the questions")
