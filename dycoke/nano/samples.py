"""The sample videos that ship with the project, with questions and right answers.

python -m dycoke.nano.samples FOLDER        writes three mp4 files and samples.json
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from dycoke.lab.interrupts import guarded
from dycoke.nano import SAMPLES_PATH
from dycoke.nano.batches import evaluation_scenes
from dycoke.nano.generator import Story, clip_questions, stories
from dycoke.nano.generator.questions import NOTHING, STILL
from dycoke.nano.video import frames_of, write_mp4

INDEX = "samples.json"
# numbers of evaluation scenes, which training never draws: four or five objects, fast and slow ones and a covered one
# among them, one to three changes of colour, five or six digits
NUMBERS = {"shapes": 246, "colors": 220, "digits": 189}
TASKS = (
    *("direction", "moving_count", "existence", "order", "color_end", "position_end", "covered", "speed"),
    *("digits", "flash_count", "events", "transcript"),
)
"""One of each family."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A video file and what is right about it: (task, question, answer) for each question."""

    video: Path
    questions: tuple[tuple[str, str, str], ...]


def _asked(story: Story) -> list[dict[str, str]]:
    """One question of each task, in evaluation's wording: the last to whose answer there is something to see."""
    last = {each.task: each for each in clip_questions(story) if each.answer not in (NOTHING, STILL)}
    return [{"task": task, "question": last[task].text, "answer": last[task].answer} for task in TASKS]


def write_samples(folder: Path) -> list[Path]:
    """Write the videos and their index into `folder`; returns the video files."""
    folder.mkdir(parents=True, exist_ok=True)
    index, files = {}, []
    for name, number in NUMBERS.items():
        scene = evaluation_scenes(1, number)
        files.append(folder / f"{name}.mp4")
        write_mp4(files[-1], frames_of(scene))
        index[files[-1].name] = _asked(stories(scene)[0])
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")
    return files


def read_samples(folder: Path = SAMPLES_PATH) -> list[Sample]:
    """The samples in `folder`. Raises FileNotFoundError if the index or a video it names is missing."""
    index = json.loads((folder / INDEX).read_text())
    samples = []
    for name, questions in index.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: named in {INDEX}, but not there")
        asked = tuple((q["task"], q["question"], q["answer"]) for q in questions)
        samples.append(Sample(folder / name, asked))
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    written = write_samples(parser.parse_args().folder)
    parser.exit(message="".join(f"{path}: {path.stat().st_size} bytes\n" for path in written))


if __name__ == "__main__":
    sys.exit(guarded(main, last=True))
