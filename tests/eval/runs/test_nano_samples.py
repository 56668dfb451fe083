"""The sample videos as tasks: every question is in one of the two, and is scored as its family is."""

import json

import pytest
from datasets import load_dataset

from dycoke.eval.tasks.nano_samples.functions import exact_match, long_answers, short_answers, videos, word_f1
from dycoke.nano import SAMPLES_PATH
from dycoke.nano.samples import INDEX, TASKS


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index as it is shipped, and the table that lmms-eval reads it as."""
    told = {
        f"{name}.mp4": [{"task": task, "question": f"{name} {task}?", "answer": "a b"} for task in TASKS]
        for name in ("shapes", "digits")
    }
    path = tmp_path_factory.mktemp("samples") / INDEX
    path.write_text(json.dumps(told, indent=1))
    cache = str(path.parent / "cache")
    return told, load_dataset("json", data_files={"test": str(path)}, split="test", cache_dir=cache)


def test_every_question_is_in_one_of_the_tasks(index):
    told, table = index
    short, long = short_answers(table), long_answers(table)
    asked = [(video, each["question"]) for video, questions in told.items() for each in questions]
    assert sorted((doc["video"], doc["question"]) for docs in (short, long) for doc in docs) == sorted(asked)
    assert {doc["task"] for doc in long} == {"events", "transcript"}
    assert {doc["task"] for doc in short} == set(TASKS) - {"events", "transcript"}
    assert videos(short[0]) == [str(SAMPLES_PATH / "shapes.mp4")]


def test_short_answers_are_right_or_wrong_and_long_ones_word_by_word():
    doc = {"answer": "7 A 0 7"}
    assert exact_match(doc, ["7 A 0 7"]) == {"exact_match": 1.0}
    assert exact_match(doc, ["7 A 0"]) == {"exact_match": 0.0}
    assert word_f1(doc, ["7 A 0 7"]) == {"word_f1": 1.0}
    assert word_f1(doc, ["7 A"])["word_f1"] == pytest.approx(2 / 3)
