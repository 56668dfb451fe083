"""Without arguments of ours, our models are lmms-eval's own; and lmms-eval gets them by its ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dycoke.attach import attached
from tests.core.test_attach import fingerprint
from tests.eval.models.asking import Doc, answer, picture
from tests.eval.models.conftest import CLASSES, Models

ROOT = Path(__file__).resolve().parents[3]
NAMES = """
import json, sys
from lmms_eval.models import MODEL_REGISTRY_V2, get_model
ids = ["llava_onevision", "llava_vid", "dycoke_hf", "llava"]
classes = [get_model(name) for name in ids]
found = {name: [each.__module__, each.__qualname__] for name, each in zip(ids, classes)}
kinds = {name: MODEL_REGISTRY_V2.resolve(name).model_type for name in ids}
print(json.dumps([found, kinds, sys.modules["dycoke"].__file__]))
"""


@pytest.mark.slow
def test_lmms_eval_finds_them_by_its_ids(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", NAMES], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    classes, kinds, file = json.loads(done.stdout.splitlines()[-1])
    assert classes == {
        "llava_onevision": ["dycoke.eval.models.llava_onevision", "LlavaOnevision"],
        "llava_vid": ["dycoke.eval.models.llava_vid", "LlavaVideo"],
        "dycoke_hf": ["dycoke.eval.models.dycoke_hf", "LlavaOnevisionHF"],
        "llava": ["lmms_eval.models.simple.llava", "Llava"],
    }
    assert set(kinds.values()) == {"simple"}
    assert Path(file).parents[1] == ROOT


def shown(models: Models, videos: list[str]) -> list[Doc]:
    asked = [Doc("What is shown?", (videos[0],)), Doc("Which one comes last of all?", (videos[1],))]
    if models.name == "llava_vid":
        return asked
    return [
        *asked,
        Doc("Which differs?", (picture(1, (60, 40)), picture(2, (50, 130)))),
        Doc("What is it?", (picture(3, (120, 80)),)),
        Doc("How many legs has a dog?"),
    ]


@pytest.mark.parametrize("more", [{}, {"dycoke": False, "dycoke_k": 0.5}, {"batch_size": "1"}])
def test_they_answer_as_the_built_in_ones(models: Models, videos, more):
    ours, asked = models.ours(**more), shown(models, videos)
    answers = answer(ours, asked)
    assert answers == answer(models.builtin(), asked)
    assert len(set(answers)) == len(asked)


def test_nothing_is_attached_and_nothing_kept(models: Models, videos):
    ours, builtin = models.ours(), models.builtin()
    assert isinstance(ours, CLASSES[models.name][0])
    for model in (ours, builtin):
        answer(model, shown(models, videos)[:1])
    with pytest.raises(ValueError, match="carries no method"):
        attached(ours.model)
    assert _hooks(ours) == _hooks(builtin)
    assert vars(ours).keys() == vars(builtin).keys()
    assert ours.model.video_seam is None


def test_a_video_that_cannot_be_read_is_the_built_in_ones_affair(vid: Models):
    """It scores such an answer; with a method, ours does not."""
    assert answer(vid.ours(), [Doc("What?", ("missing.mp4",))]) == ["Video missing.mp4 can not load, check the source"]


def test_tokens_of_a_frame_are_compared(models: Models):
    models.ours(dycoke=True, dycoke_num_tokens_per_frame=16)
    with pytest.raises(ValueError, match="dycoke_num_tokens_per_frame=196: this model makes 16 tokens of a frame"):
        models.ours(dycoke=True, dycoke_num_tokens_per_frame=196)


def test_an_unknown_argument_is_refused(models: Models):
    with pytest.raises(ValueError, match="unknown argument frames"):
        models.ours(frames=8)


def _hooks(model: Any) -> dict[str, Any]:
    return {name: state[0] for name, state in fingerprint(model.model).items() if name != "generation"}
