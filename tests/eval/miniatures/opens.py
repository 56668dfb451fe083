"""Data sets with open answers in miniature: ActivityNet-QA and the detailed descriptions of Video-ChatGPT's videos."""

from __future__ import annotations

from tests.eval.miniatures.asked import ask, describe
from tests.eval.miniatures.dataset import DataSet

DESCRIBE = "Describe the events in order."  # in words that the embedded model knows


def _activitynetqa() -> DataSet:
    """Questions as they are published: in small letters, without a question mark."""
    docs, videos = [], {}
    for number in range(70, 74):
        asked, name = ask(number, 4), f"mini{number}"
        videos[f"all_test/v_{name}.mp4"] = number
        docs.append(
            {
                "video_name": name,
                "question_id": f"v_{name}_1",
                "question": asked.question.rstrip("?").lower(),
                "answer": asked.answer,
                "type": str(number % 9),
            }
        )
    schema = dict.fromkeys(docs[0], "string")
    return DataSet("lmms-eval/ActivityNetQA", "default", "test", schema, tuple(docs), "activitynetqa", videos)


def _descriptions() -> DataSet:
    numbers = range(80, 83)
    docs = tuple({"video_name": f"v_mini{n}", "question": DESCRIBE, "answer": describe(n)} for n in numbers)
    videos = {f"Test_Videos/v_mini{number}.mp4": number for number in numbers}
    schema = dict.fromkeys(docs[0], "string")
    return DataSet("lmms-lab/VideoDetailDescription", "default", "test", schema, docs, "videochatgpt", videos)


ACTIVITYNETQA = _activitynetqa()
DESCRIPTIONS = _descriptions()
