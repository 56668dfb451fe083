"""The sample videos as two tasks of lmms-eval: short answers, right or wrong, and long ones, word by word."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from dycoke.eval.runs.word_f1 import ordered_f1
from dycoke.nano import SAMPLES_PATH
from dycoke.nano.generator import LONG_TASKS


def short_answers(videos: Dataset) -> Dataset:
    """Questions answered by a word or two."""
    return _questions(videos, long=False)


def long_answers(videos: Dataset) -> Dataset:
    """Questions whose answer is an account of the whole video."""
    return _questions(videos, long=True)


def videos(doc: dict[str, Any]) -> list[str]:
    """Path of the video a question is about."""
    return [str(SAMPLES_PATH / doc["video"])]


def exact_match(doc: dict[str, Any], answers: list[str]) -> dict[str, float]:
    return {"exact_match": float(answers[0] == doc["answer"])}


def word_f1(doc: dict[str, Any], answers: list[str]) -> dict[str, float]:
    return {"word_f1": ordered_f1(answers[0], doc["answer"])}


def _questions(videos: Dataset, long: bool) -> Dataset:
    """One row per question, of a table with one row, and a column of questions for each video."""
    rows = [
        {"video": video, **question}
        for video in videos.column_names
        for question in videos[0][video]
        if (question["task"] in LONG_TASKS) == long
    ]
    return Dataset.from_list(rows)
