"""Tiny models of lmms-eval, built-in and ours, and files to ask them about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")  # before decord, whose own codecs would take the place of this one's
pytest.importorskip("decord")
pytest.importorskip("lmms_eval")

from lmms_eval.models.simple.llava_onevision import Llava_OneVision
from lmms_eval.models.simple.llava_vid import LlavaVid

import dycoke
from dycoke.eval.models.llava_onevision import LlavaOnevision
from dycoke.eval.models.llava_vid import LlavaVideo
from llava.model.builder import load_pretrained_model
from tests.eval.models.asking import Doc, write_frames, write_videos
from tests.llava import tiny

FRAMES = 8
CLASSES = {"llava_onevision": (Llava_OneVision, LlavaOnevision), "llava_vid": (LlavaVid, LlavaVideo)}
CHANGED = {  # in a checkpoint's config, by a built-in model at its defaults
    "llava_onevision": {"mm_spatial_pool_mode": "bilinear"},
    "llava_vid": {"mm_spatial_pool_mode": "average", "mm_newline_position": "grid"},
}
METHODS = {  # as arguments of a model, and as what they mean
    "full": ({"method": "full"}, dycoke.build("full")),
    "dycoke": ({"dycoke": True, "dycoke_l": 1, "dycoke_k": 0.5}, dycoke.build("dycoke", k=0.5, l=1, p=0.7)),
    "fastv": ({"method": "fastv", "k": 1, "r": 0.5}, dycoke.build("fastv", k=1, r=0.5)),
}


@dataclass(frozen=True)
class Models:
    """A model id with its tiny checkpoint: `builtin` and `ours` load it as lmms-eval's class and as this package's."""

    name: str
    checkpoint: Path

    def arguments(self, **more: Any) -> dict[str, Any]:
        own = {"model_name": "llava_qwen"} if self.name == "llava_onevision" else {"force_sample": True}
        common = {"conv_template": "qwen_1_5", "device": "cpu", "device_map": "auto", "max_frames_num": FRAMES}
        return {"pretrained": str(self.checkpoint), **common, **own, **more}

    def ours(self, **more: Any) -> Any:
        return CLASSES[self.name][1](**self.arguments(**more))

    def builtin(self, dtype: str = "float16", **more: Any) -> Any:
        """lmms-eval's own; it knows float16 alone, so that its weights are exchanged for another dtype."""
        model = CLASSES[self.name][0](**self.arguments(**more))
        if dtype != "float16":
            model._model = self.plain(dtype)
            model._config = model._model.config
        return model

    def plain(self, dtype: str = "float32") -> Any:
        """The model alone, with nothing attached."""
        return load_pretrained_model(
            str(self.checkpoint),
            None,
            self.checkpoint.name,
            device_map="cpu",
            torch_dtype=dtype,
            attn_implementation="sdpa",
            overwrite_config=CHANGED[self.name],
        )[1]


@pytest.fixture(scope="session")
def onevision(tmp_path_factory) -> Models:
    path = tmp_path_factory.mktemp("models") / "llava-onevision-qwen2-tiny-ov"
    return Models("llava_onevision", tiny.make_onevision_checkpoint(path))


@pytest.fixture(scope="session")
def vid(tmp_path_factory) -> Models:
    path = tmp_path_factory.mktemp("models") / "LLaVA-Video-tiny-Qwen2"
    return Models("llava_vid", tiny.make_video_checkpoint(path))


@pytest.fixture(params=CLASSES)
def models(request, onevision, vid) -> Models:
    """Each of the two."""
    return onevision if request.param == "llava_onevision" else vid


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> list[str]:
    return write_videos(tmp_path_factory.mktemp("videos"), 4)


@pytest.fixture
def asked(videos) -> list[Doc]:
    """Questions of different length about different videos; the same video twice."""
    questions = ["What is shown?", "Hm", "Which of the things that are shown comes last of all?", "And what is next?"]
    docs = [Doc(question, (video,)) for question, video in zip(questions, videos, strict=True)]
    return [*docs, Doc("Who?", (videos[0],))]


@pytest.fixture(scope="session")
def frames(tmp_path_factory) -> str:
    """A folder of pictures that are the frames of a video."""
    return write_frames(tmp_path_factory.mktemp("frames") / "video")
