"""All benchmarks in miniature through lmms-eval, in one process: with its own llava_onevision, and with a script.

python -m tests.eval.passes FILE TASK...      writes {pass: {leaf task: {"metrics": ..., "samples": [...]}}}

The script answers all of them, lmms-eval's own class the tasks that are named.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lmms_eval import evaluator
from lmms_eval.api.model import lmms
from lmms_eval.models.simple.llava_onevision import Llava_OneVision
from lmms_eval.tasks import TaskManager
from transformers import AutoConfig

from dycoke.nano import CONVERSATION, MODEL_PATH
from llava.model import LlavaQwenConfig
from tests.eval.miniatures import FRAMES, MINIATURES, leaves
from tests.eval.scripted import reply


class Scripted(lmms):
    """A model that looks at no video and gives the answer that `reply` says."""

    def generate_until(self, requests) -> list[str]:
        return [self._answer(*request.args[2:]) for request in requests]

    def _answer(self, doc_to_visual, doc_id: int, task: str, split: str) -> str:
        doc = self.task_dict[task][split][doc_id]
        (video,) = doc_to_visual(doc)
        if not Path(video).is_file():
            raise FileNotFoundError(video)
        return reply(task, doc_id, doc)

    def loglikelihood(self, requests):
        raise NotImplementedError

    def generate_until_multi_round(self, requests):
        raise NotImplementedError


def stock() -> Llava_OneVision:
    """lmms-eval's own class with the embedded model, whose type it asks transformers for."""
    AutoConfig.register("llava_qwen", LlavaQwenConfig, exist_ok=True)
    return Llava_OneVision(
        pretrained=str(MODEL_PATH),
        conv_template=CONVERSATION,
        model_name="llava_qwen",
        device="cpu",
        device_map="auto",
        max_frames_num=FRAMES,
    )


def evaluate(model: lmms, tasks: list[str], manager: TaskManager) -> dict[str, Any]:
    found = evaluator.simple_evaluate(
        model, tasks=tasks, batch_size=1, device="cpu", bootstrap_iters=0, task_manager=manager
    )
    names = [leaf for task in tasks for leaf in leaves(task)]
    return {name: {"metrics": found["results"][name], "samples": found["samples"][name]} for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("tasks", nargs="+", choices=MINIATURES)
    given = parser.parse_args()
    manager = TaskManager(model_name="llava_onevision")
    found = {
        "stock": evaluate(stock(), given.tasks, manager),
        "scripted": evaluate(Scripted(), list(MINIATURES), manager),
    }
    given.file.write_text(json.dumps(found, default=str))


if __name__ == "__main__":
    main()
