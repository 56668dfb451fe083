"""NanoVideoBench: for each video of a split one question of every family.

    python -m dycoke.nano.benchmark FOLDER [--split test] [--videos 100] [--level standard] [--seed-start 0]
        [--frames 64]                   writes mp4 files and annotations.json

Everything follows from split, level and number of a video; lmms-eval's tasks `nanovideo_*` make the files on first use.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from tqdm import tqdm

from dycoke.lab.interrupts import guarded
from dycoke.lab.record import write_record
from dycoke.nano import HOME
from dycoke.nano.generator import FAMILIES, STANDARD, TICKS, Family, Question, clip_questions, sample_scenes, stories
from dycoke.nano.generator.splits import split_seeds
from dycoke.nano.video import RATE, frames_of, ticks_of, write_mp4

NAME = "NanoVideoBench"
SPLIT = "test"
VIDEOS = 100
ANNOTATIONS = "annotations.json"
_SOURCES = ("generator/*.py", "splits.py", "video.py", "benchmark.py")  # what a video file depends on
_AT_ONCE = 64


def documents(
    split: str = SPLIT, videos: int = VIDEOS, level: str = STANDARD, start: int = 0, families: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """The questions of `videos` videos, one of each family (of those named, or all), video by video.

    video: name of the file; number and seed: those of its scene in the split, of which those from number `start` on
    are taken that every family has a question about. spacing: the widest distance of frames, in ticks of TICKS a video,
    at which what the answer depends on is in one of them for certain. Raises ValueError for an unknown split, level or
    family, and for less than one video.
    """
    if videos < 1:
        raise ValueError(f"videos={videos}: expected at least 1")
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        raise ValueError(f"family {', '.join(unknown)}: expected some of {', '.join(FAMILIES)}")
    found = []
    for number, seed, asked in islice(_asked(split, level, start), videos):
        place = {"video": file_name(number), "split": split, "level": level, "number": number, "seed": seed}
        found += [
            place
            | {"family": name, "task": each.task, "question": each.text, "answer": each.answer}
            | {"spacing": each.spacing}
            for name, each in asked.items()
            if not families or name in families
        ]
    return found


def file_name(number: int) -> str:
    """File name of the video of a number in its folder."""
    return f"{number:04}.mp4"


def cached_video(split: str, level: str, number: int) -> Path:
    """File of a video, made if it does not exist yet, in the folder that `cache_folder` names."""
    path = cache_folder() / f"{split}-{level}" / file_name(number)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, split, level, number)
    return path


def cache_folder() -> Path:
    """Folder where videos are kept: below DYCOKE_CACHE if that is set, else dycoke in the user's cache folder.

    Its name tells versions of the generator and of the encoder apart, so that no file of another one is taken.
    """
    named = os.environ.get("DYCOKE_CACHE")
    home = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dycoke"
    return home / "nanovideo" / version()


@cache
def version() -> str:
    """Digest of what the bytes of a video follow from: the sources that draw and write it, and the encoder."""
    import av

    digest = hashlib.sha256(repr((av.__version__, sorted(av.library_versions.items()))).encode())
    for file in sorted(path for pattern in _SOURCES for path in HOME.glob(pattern)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def write_video(path: Path, split: str, level: str, number: int, frames: int = TICKS) -> None:
    """Write the video of a number, `frames` over its whole length, by rename: a file that exists is complete.

    Several processes may write the same one at once. Raises ValueError as `frames_of` does, OSError if it cannot be.
    """
    drawn = frames_of(sample_scenes(split_seeds(split, number, 1), level), frames)
    partial = path.with_name(f".{uuid4().hex}{path.suffix}")
    try:
        write_mp4(partial, drawn, _rate(frames))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_benchmark(folder: Path, split: str, videos: int, level: str, start: int, frames: int) -> dict[str, Any]:
    """Write the videos and then their annotations into `folder`; returns the annotations.

    Files that are there are written anew. Raises ValueError and OSError as `documents` and `write_video` do.
    """
    entries: dict[str, dict[str, Any]] = {}
    for doc in documents(split, videos, level, start):
        facts = {"number": doc["number"], "seed": doc["seed"], "level": level, "frames": frames}
        entry = entries.setdefault(doc["video"], {**facts, "rate": float(_rate(frames)), "questions": []})
        entry["questions"].append({key: doc[key] for key in ("family", "task", "question", "answer", "spacing")})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ANNOTATIONS).unlink(missing_ok=True)  # of other videos; it is there again once these are
    for name, entry in tqdm(entries.items(), desc="writing videos", unit="video"):
        write_video(folder / name, split, level, entry["number"], frames)
    annotations = {"name": NAME, "split": split, "videos": entries}
    write_record(folder / ANNOTATIONS, annotations)
    return annotations


def _asked(split: str, level: str, start: int) -> Iterator[tuple[int, int, dict[str, Question]]]:
    """Number, seed, and a question of each family, of every scene from `start` on that all families can ask about."""
    for first in count(start, _AT_ONCE):
        seeds = split_seeds(split, first, _AT_ONCE)
        scenes = stories(sample_scenes(seeds, level))
        for number, (seed, story) in enumerate(zip(seeds.tolist(), scenes, strict=True), first):
            questions = clip_questions(story)
            asked = {name: _chosen(seed, questions, family) for name, family in FAMILIES.items()}
            if None not in asked.values():
                yield number, seed, asked


def _chosen(seed: int, questions: list[Question], family: Family) -> Question | None:
    """Question of a family about a video; None if it has none."""
    fitting = [question for question in questions if question.task in family.tasks]
    draw = int.from_bytes(hashlib.sha256(f"{seed} {family.name}".encode()).digest()[:8], "big")
    return fitting[draw % len(fitting)] if fitting else None


def _rate(frames: int) -> Fraction:
    """Frames per second, with which a video lasts as long as any other. Raises ValueError as `ticks_of` does."""
    return Fraction(RATE * len(ticks_of(frames)), TICKS)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default=SPLIT, help="train, validation or test")
    parser.add_argument("--videos", type=int, default=VIDEOS)
    parser.add_argument("--level", default=STANDARD, help="easy, standard or hard")
    parser.add_argument("--seed-start", type=int, default=0, help="number of the first scene that may be taken")
    parser.add_argument("--frames", type=int, default=TICKS, help="of each video, 8 to 64")
    given = parser.parse_args(arguments)
    chosen = given.split, given.videos, given.level, given.seed_start, given.frames
    try:
        written = write_benchmark(given.folder, *chosen)["videos"]
    except (ValueError, OSError) as error:
        parser.error(str(error))
    questions = sum(len(entry["questions"]) for entry in written.values())
    size = sum((given.folder / name).stat().st_size for name in written)
    print(f"{given.folder}: {len(written)} videos, {questions} questions in {ANNOTATIONS}, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    sys.exit(guarded(main, last=True))
