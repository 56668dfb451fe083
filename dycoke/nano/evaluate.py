"""Exact match of generated answers on evaluation scenes, at full tokens and under any method.

    python -m dycoke.nano.evaluate [--videos 16] [--mp4] [--method full --method dycoke,k=0.7] [--output FILE]

Every question is asked alone, in its first wording, through the stock `generate` with the method attached. With --mp4
each scene is encoded with H.264, decoded and resized as a user's file would be; else the drawn frames are used.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dycoke.ask.answer import answer
from dycoke.ask.chat import DEVICES, Chat, load_chat, placement
from dycoke.ask.video import read_frames
from dycoke.nano import MODEL_PATH
from dycoke.nano.batches import evaluation_scenes
from dycoke.nano.generator import FRAMES, Scene, Story, clip_questions, render, stories
from dycoke.nano.scoring import Tally, add, shares
from dycoke.nano.video import frames_of, write_mp4
from dycoke.nano.views import native_view
from dycoke.options import parse_method
from dycoke.registry import build
from dycoke.types import Method

_MAX_NEW_TOKENS = 96


def drawn_frames(scene: Scene) -> np.ndarray:
    """The native frames of one scene, uint8 [FRAMES, 64, 64, 3]."""
    pixels = render(scene, native_view(len(scene)).times).pixels[0]
    return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def filmed_frames(scene: Scene, folder: Path) -> np.ndarray:
    """The frames of one scene as a reader gets them from its mp4 file, uint8 [FRAMES, 256, 256, 3]."""
    path = folder / "scene.mp4"
    write_mp4(path, frames_of(scene))
    return read_frames(path, FRAMES)


def clips(videos: int, start: int, film: bool) -> Iterator[tuple[np.ndarray, Story]]:
    """Frames and story of `videos` evaluation scenes from number `start` on."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(start, start + videos):
            scene = evaluation_scenes(1, number)
            frames = filmed_frames(scene, Path(folder)) if film else drawn_frames(scene)
            yield frames, stories(scene)[0]


def score(chat: Chat, method: Method, frames: np.ndarray, story: Story, tally: Tally) -> list[dict[str, str]]:
    """Ask every question about one video, add to the tally, and return the wrong answers."""
    wrong = []
    for question in clip_questions(story):
        request = chat.request(frames, question.text)
        said = answer(chat, method, request, _MAX_NEW_TOKENS).text
        add(tally, question.task, said == question.answer)
        if said != question.answer:
            wrong.append({"question": question.text, "answer": question.answer, "said": said})
    return wrong


def evaluate(chat: Chat, methods: dict[str, Method], videos: int, start: int, film: bool) -> dict[str, dict]:
    """{method: {"exact_match": share by task and mean, "asked": questions, "wrong": wrong answers}}."""
    tallies: dict[str, Tally] = {name: {} for name in methods}
    wrong: dict[str, list] = {name: [] for name in methods}
    for frames, story in clips(videos, start, film):
        for name, method in methods.items():
            wrong[name] += score(chat, method, frames, story, tallies[name])
    return {
        name: {
            "exact_match": shares(tally),
            "asked": sum(asked for _, asked in tally.values()),
            "wrong": wrong[name],
        }
        for name, tally in tallies.items()
    }


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
    methods = {}
    for text in options.method or ["full", "dycoke,k=0.7"]:
        name, values = parse_method(text)
        methods[text] = build(name, **values)
    chat = load_chat(options.model, placement(options.device, "auto"))
    results = evaluate(chat, methods, options.videos, options.start, options.mp4)
    for name, result in results.items():
        line = " ".join(f"{task} {share:.3f}" for task, share in result["exact_match"].items())
        sys.stdout.write(f"{name}: {line} ({result['asked']} questions)\n")
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
