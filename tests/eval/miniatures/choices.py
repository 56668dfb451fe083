"""Multiple-choice data sets in miniature: Video-MME, NExT-QA, PerceptionTest, EgoSchema, LongVideoBench, MLVU."""

from __future__ import annotations

import json

from tests.eval.miniatures.asked import LETTERS, Asked, ask
from tests.eval.miniatures.dataset import DataSet
from tests.eval.miniatures.videos import SECONDS

SPOKEN = ("First we look around.", "Then something changes.")
_SRT = '{number}\n00:00:0{number},000 --> 00:00:0{number},900\n<font color="white" size=".72c">{text}</font>\n'


def _lettered(asked: Asked, form: str) -> list[str]:
    return [form.format(letter, option) for letter, option in zip(LETTERS, asked.options, strict=False)]


def _video_mme() -> DataSet:
    """Two questions about each of two videos; the second video has no subtitles."""
    docs, videos = [], {}
    for video, number in enumerate((10, 11)):
        name = f"miniVideo{video}"
        videos[f"data/{name}.mp4"] = number
        for turn in range(2):
            asked = ask(number, 4, turn)
            docs.append(
                {
                    "video_id": f"{video + 1:03d}",
                    "duration": ("short", "long")[video],
                    "domain": ("Knowledge", "Life Record")[video],
                    "sub_category": ("Astronomy", "Travel")[video],
                    "url": f"https://example.org/watch?v={name}",
                    "videoID": name,
                    "question_id": f"{video + 1:03d}-{turn + 1}",
                    "task_type": ("Attribute Perception", "Counting Problem")[turn],
                    "question": asked.question,
                    "options": _lettered(asked, "{}. {}"),
                    "answer": asked.letter,
                }
            )
    texts = [_SRT.format(number=number, text=text) for number, text in enumerate(SPOKEN)]
    schema = dict.fromkeys(docs[0], "string") | {"options": ["string"]}
    subtitles = {"subtitle/miniVideo0.srt": "\n".join(texts)}
    return DataSet("lmms-eval/Video-MME", "videomme", "test", schema, tuple(docs), "videomme", videos, subtitles)


def _nextqa() -> DataSet:
    docs, videos = [], {}
    for number in range(20, 24):
        asked, video = ask(number, 5), 4000000000 + number
        videos[f"NExTVideo/{video}.mp4"] = number
        docs.append(
            {
                "video": video,
                "frame_count": 16,
                "width": 64,
                "height": 64,
                "question": asked.question.rstrip("?").lower(),
                "answer": asked.place,
                "qid": number % 3,
                "type": ("CW", "TN", "DC", "DO")[number % 4],
                **{f"a{place}": option for place, option in enumerate(asked.options)},
            }
        )
    schema = {key: "int64" if isinstance(value, int) else "string" for key, value in docs[0].items()}
    return DataSet("lmms-eval/NExTQA", "MC", "test", schema, tuple(docs), "nextqa", videos)


def _perception_test() -> DataSet:
    docs, videos = [], {}
    for number in range(30, 34):
        asked, name = ask(number, 3), f"video_{number}"
        videos[f"videos/{name}.mp4"] = number
        docs.append(
            {
                "video_name": name,
                "question": asked.question,
                "question_id": str(number),
                "options": list(asked.options),
                "answer_id": str(asked.place),
                "area": "Physics",
                "reasoning": "Descriptive",
                "tag": ["motion"],
            }
        )
    schema = dict.fromkeys(docs[0], "string") | {"options": ["string"], "tag": ["string"]}
    name, config = "lmms-eval/PerceptionTest_Val", "mc_question_val"
    return DataSet(name, config, "validation", schema, tuple(docs), "perceptiontest_val", videos)


def _egoschema() -> DataSet:
    docs, videos = [], {}
    for number in range(40, 44):
        asked, name = ask(number, 5), f"00000000-0000-4000-8000-0000000000{number}"
        videos[f"videos/{name}.mp4"] = number
        docs.append(
            {
                "question_idx": str(number),
                "question": asked.question,
                "video_idx": name,
                "option": _lettered(asked, "{}. {}"),
                "answer": str(asked.place),
            }
        )
    schema = dict.fromkeys(docs[0], "string") | {"option": ["string"]}
    return DataSet("lmms-eval/egoschema", "Subset", "test", schema, tuple(docs), "egoschema", videos)


def _longvideobench() -> DataSet:
    """Questions of four and of five options; "N/A" fills what is missing."""
    docs, videos, texts = [], {}, {}
    for number in range(50, 54):
        asked, name = ask(number, 4 + number % 2), f"mini_{number}"
        videos[f"videos/{name}.mp4"] = number
        spoken = [{"timestamp": [second, second + 0.9], "text": text} for second, text in enumerate(SPOKEN)]
        texts[f"subtitles/{name}_en.json"] = json.dumps(spoken)
        options = [*asked.options, "N/A"][:5]
        docs.append(
            {
                "video_id": name,
                "id": f"{name}_0",
                "video_path": f"{name}.mp4",
                "subtitle_path": f"{name}_en.json",
                "correct_choice": asked.place,
                "question": asked.question,
                **{f"option{place}": option for place, option in enumerate(options)},
                "duration": float(SECONDS),
                "duration_group": (15, 60)[number % 2],
                "question_category": ("S2E", "TOS", "S2E")[number % 3],
                "topic_category": "T1-Travel",
                "starting_timestamp_for_subtitles": 0.0,
            }
        )
    types = {int: "int64", float: "float64", str: "string"}
    schema = {key: types[type(value)] for key, value in docs[0].items()}
    name, folder = "longvideobench/LongVideoBench", "datasets/longvideobench"
    return DataSet(name, "default", "validation", schema, tuple(docs), folder, videos, texts)


def _mlvu() -> DataSet:
    """Five questions of four types, two of one type: its score is a mean over seven types, not over questions."""
    docs, videos = [], {}
    for number, kind in zip(range(60, 65), ("count", "count", "ego", "order", "plotQA"), strict=True):
        asked, name = ask(number, 4), f"{kind}_{number}.mp4"
        videos[name] = number
        docs.append(
            {
                "video_name": name,
                "duration": float(SECONDS),
                "question": "\n".join([asked.question, *_lettered(asked, "({}) {}")]),
                "candidates": list(asked.options),
                "answer": asked.letter,
                "task_type": kind,
                "question_id": f"{kind}_{number}",
            }
        )
    schema = dict.fromkeys(docs[0], "string") | {"duration": "float64", "candidates": ["string"]}
    return DataSet("sy1998/MLVU_dev", "default", "test", schema, tuple(docs), "mlvu", videos)


VIDEO_MME = _video_mme()
NEXTQA = _nextqa()
PERCEPTION_TEST = _perception_test()
EGOSCHEMA = _egoschema()
LONGVIDEOBENCH = _longvideobench()
MLVU = _mlvu()
