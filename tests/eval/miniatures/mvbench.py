"""MVBench in miniature: one question of each of its twenty sub-tasks, in the folders of the videos they come from."""

from __future__ import annotations

from tests.eval.miniatures.asked import ask
from tests.eval.miniatures.dataset import DataSet
from tests.eval.miniatures.videos import SECONDS

FOLDERS = {
    "action_sequence": "star/Charades_segment",
    "moving_count": "clevrer/video_validation",
    "action_prediction": "star/Charades_segment",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "action_antonym": "ssv2_video_mp4",
    "action_count": "perception/videos",
    "scene_transition": "scene_qa/video",
    "object_shuffle": "perception/videos",
    "object_existence": "clevrer/video_validation",
    "fine_grained_pose": "nturgbd_convert",
    "unexpected_action": "FunQA_test/test",
    "moving_direction": "clevrer/video_validation",
    "state_change": "perception/videos",
    "object_interaction": "star/Charades_segment",
    "character_order": "perception/videos",
    "action_localization": "sta/sta_video_segment",
    "counterfactual_inference": "clevrer/video_validation",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "moving_attribute": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
}
# sub-tasks about a part of a longer video: the rows say which, and the files hold that part alone
_SEGMENTS = {folder for folder in FOLDERS.values() if folder.endswith("_segment")}
_SCHEMA = {"video": "string", "question": "string", "candidates": ["string"], "answer": "string"}


def _sub_task(number: int, sub_task: str, folder: str) -> DataSet:
    asked = ask(number, 3 + number % 3)
    doc = {"question": asked.question, "candidates": list(asked.options), "answer": asked.answer}
    schema = _SCHEMA
    if folder in _SEGMENTS:
        doc |= {"start": 0.5, "end": 0.5 + SECONDS, "video": f"MINI{number}_0.5_{0.5 + SECONDS}.mp4"}
        schema = _SCHEMA | {"start": "float64", "end": "float64"}
    else:
        doc["video"] = f"mini_{number}.mp4"
    videos = {f"{folder}/{doc['video']}": number}
    return DataSet("OpenGVLab/MVBench", sub_task, "train", schema, (doc,), "mvbench_video", videos, revision="video")


MVBENCH = tuple(_sub_task(100 + place, *each) for place, each in enumerate(FOLDERS.items()))
