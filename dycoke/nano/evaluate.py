"""Exact match of generated answers on evaluation scenes, at full tokens and under any method.

    python -m dycoke.nano.evaluate [--videos 16] [--mp4] [--method full --method dycoke,k=0.7] [--output FILE]

Every question is asked alone, in its first wording, through the stock `generate` with the method attached. With --mp4
each scene is encoded with H.264, decoded and resized as a user's file would be; else the drawn frames are used.
Under `accelerate launch` the processes share the videos, each on a GPU of its own, and the first one prints and writes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dycoke.families.chat import DEVICES, Chat, load_chat, placement
from dycoke.lab.interrupts import guarded
from dycoke.lab.ranks import Ranks, disband
from dycoke.lab.record import write_text
from dycoke.nano import MODEL_PATH
from dycoke.nano.batches import evaluation_scenes
from dycoke.nano.generator import Scene, Story, clip_questions, render, stories
from dycoke.nano.scoring import Tally, add, shares
from dycoke.nano.video import frames_of, write_mp4
from dycoke.nano.views import NATIVE, native_view
from dycoke.offline.answer import answer
from dycoke.plans import choose
from dycoke.types import Method

_MAX_NEW_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Answered:
    """A question about a video, its task and its answer, and what the model said."""

    task: str
    question: str
    answer: str
    said: str


def drawn_frames(scene: Scene) -> np.ndarray:
    """The native frames of one scene, uint8 [NATIVE, SIDE, SIDE, 3]."""
    return render(scene, native_view(len(scene)).ticks).pixels[0].permute(0, 2, 3, 1).numpy()


def filmed_frames(scene: Scene, folder: Path) -> np.ndarray:
    """The frames of one scene as a reader gets them from its mp4 file, uint8 [NATIVE, SIDE, SIDE, 3]."""
    from dycoke.video.frames import read_frames  # here, because av is not everywhere that drawn frames are used

    path = folder / "scene.mp4"
    write_mp4(path, frames_of(scene))
    return read_frames(path, NATIVE)


def clips(numbers: Iterable[int], film: bool) -> Iterator[tuple[np.ndarray, Story]]:
    """Frames and story of the evaluation scenes with these numbers."""
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            scene = evaluation_scenes(1, number)
            frames = filmed_frames(scene, Path(folder)) if film else drawn_frames(scene)
            yield frames, stories(scene)[0]


def answers(chat: Chat, method: Method, frames: np.ndarray, story: Story) -> list[Answered]:
    """Answers to every question about one video."""
    asked = []
    for question in clip_questions(story):
        said = answer(chat, method, chat.request(frames, question.text), _MAX_NEW_TOKENS).text
        asked.append(Answered(question.task, question.text, question.answer, said))
    return asked


def result(asked: Sequence[Answered]) -> dict[str, Any]:
    """{"exact_match": share by task and mean, "asked": questions, "wrong": wrong answers}."""
    tally: Tally = {}
    for each in asked:
        add(tally, each.task, each.said == each.answer)
    wrong = [{"question": a.question, "answer": a.answer, "said": a.said} for a in asked if a.said != a.answer]
    return {"exact_match": shares(tally), "asked": len(asked), "wrong": wrong}


def evaluate(
    chat: Chat, methods: Mapping[str, Method], numbers: Sequence[int], film: bool, ranks: Ranks
) -> dict[str, dict[str, Any]]:
    """The `result` of every method on the evaluation scenes with these numbers, shared out over the processes."""
    found = ranks.gather(
        [
            {name: answers(chat, method, frames, story) for name, method in methods.items()}
            for frames, story in clips(ranks.mine(numbers), film)
        ]
    )
    return {name: result([each for video in found for each in video[name]]) for name in methods}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(MODEL_PATH))
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--start", type=int, default=0, help="number of the first evaluation scene")
    parser.add_argument("--mp4", action="store_true", help="through H.264 files")
    parser.add_argument("--method", action="append", metavar="NAME,OPTION=VALUE,...", help="repeat for several")
    parser.add_argument("--device", default="auto", choices=DEVICES)
    parser.add_argument("--output", type=Path, help="JSON file to write, with every wrong answer")
    options = parser.parse_args(arguments)
    methods = {text: choose(text) for text in options.method or ["full", "dycoke,k=0.7"]}
    ranks = Ranks.current(cpu=options.device == "cpu")
    chat = load_chat(options.model, placement(options.device, "auto"))
    numbers = range(options.start, options.start + options.videos)
    results = evaluate(chat, methods, numbers, options.mp4, ranks)
    disband()
    if not ranks.is_main:
        return
    for name, found in results.items():
        line = " ".join(f"{task} {share:.3f}" for task, share in found["exact_match"].items())
        sys.stdout.write(f"{name}: {line} ({found['asked']} questions)\n")
    if options.output is not None:
        write_text(options.output, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(guarded(main, last=True))
