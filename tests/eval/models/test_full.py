"""With `full`, our models answer what lmms-eval's own classes answer."""

from __future__ import annotations

import glob
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dycoke
from dycoke.eval.runs.samples import Samples
from tests.eval.models.asking import Doc, answer, picture
from tests.eval.models.conftest import FRAMES, Models
from tests.llava import tiny

ASKED = json.dumps([{"value": "<image>\nWhat?"}, {"value": "A dog."}, {"value": "Which colour has it?"}])
DTYPES = ("float16", "float32")


def docs(kind: str, videos: list[str]) -> list[Doc]:
    """Two questions that show a model the same kind of thing."""
    several = [(picture(1, (60, 40)), picture(2, (50, 130))), (picture(3, (40, 60)), picture(4, (90, 70)))]
    pairs = {
        "video": [Doc("What is shown?", (videos[0],)), Doc("Which one comes last of all?", (videos[1],))],
        "placeholder": [Doc("This: <image>\nWhat?", (videos[0],)), Doc("Or this: <image>\nWho?", (videos[1],))],
        "conversation": [Doc(ASKED, (videos[0],)), Doc(ASKED.replace("dog", "big cat"), (videos[1],))],
        "pictures": [Doc("Which differs?", several[0]), Doc("How do they differ?", several[1])],
        "picture": [Doc("What is it?", (picture(3, (120, 80)),)), Doc("Which colour?", (picture(4, (80, 80)),))],
        "text": [Doc("How many legs has a dog?"), Doc("And a bird?")],
    }
    return pairs[kind]


def check(answers: list[str], expected: list[str]) -> None:
    assert answers == expected
    assert len(set(answers)) == len(answers)  # so that an answer by default would show
    assert all(answers)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["video", "placeholder", "conversation", "pictures", "picture", "text"])
def test_onevision(onevision: Models, videos, kind, dtype):
    asked, ours = docs(kind, videos), onevision.ours(method="full", dtype=dtype)
    assert ours.model.dtype == getattr(torch, dtype)
    check(answer(ours, asked), answer(onevision.builtin(dtype), asked))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["video", "placeholder", "conversation"])
def test_vid(vid: Models, videos, kind, dtype):
    asked, ours = docs(kind, videos), vid.ours(method="full", dtype=dtype)
    assert ours.model.dtype == getattr(torch, dtype)
    check(answer(ours, asked), answer(vid.builtin(dtype, torch_dtype=dtype), asked))


@pytest.mark.parametrize("kind", ["pictures", "picture", "text"])
def test_a_placeholder_for_each_frame_changes_nothing_for_pictures_and_text(onevision: Models, videos, kind):
    asked, strategy = docs(kind, videos), {"token_strategy": "multiple"}
    check(answer(onevision.ours(method="full", **strategy), asked), answer(onevision.builtin(**strategy), asked))


def test_a_placeholder_for_each_frame_of_a_video(onevision: Models, videos):
    """The model takes one for a video; both classes write as many as there are frames, and are refused."""
    strategy, words = {"token_strategy": "multiple"}, r"more <image> tokens \(8 or more\) than images"
    with pytest.raises(ValueError, match=words):
        answer(onevision.builtin(**strategy), docs("video", videos))
    with pytest.raises(SystemExit, match=words):
        answer(onevision.ours(method="full", **strategy), docs("video", videos))


def test_one_picture_after_several(onevision: Models, videos):
    """The built-in class sets the aspect ratio of several pictures on the config, and back for the next request."""
    mixed = [*docs("pictures", videos), *docs("picture", videos), *docs("text", videos), *docs("video", videos)]
    ours = onevision.ours(method="full")
    check(answer(ours, mixed), answer(onevision.builtin(), mixed))
    assert ours.model.config.image_aspect_ratio == "anyres_max_9"


def test_pictures_that_a_task_calls_a_video(onevision: Models):
    shown = [Doc("What?", tuple(picture(number, (64, 48)) for number in range(start, start + 12))) for start in (0, 50)]
    metadata = {"task_type": "video", "sample_frames": 6}
    ours = onevision.ours(method="full")
    check(answer(ours, shown, **metadata), answer(onevision.builtin(), shown, **metadata))


def test_frames_of_a_folder(vid: Models, frames, monkeypatch):
    """As MVBench has them; the built-in class takes them as the folder lists them, which no file system promises."""
    listed = glob.glob
    monkeypatch.setattr(glob, "glob", lambda pattern: sorted(listed(pattern)))
    asked, task = [Doc("What is shown?", (frames,)), Doc("Who?", (frames,))], "mvbench_episodic_reasoning"
    check(answer(vid.ours(method="full"), asked, task), answer(vid.builtin(), asked, task))


def test_frames_of_a_folder_are_seen_by_onevision(onevision: Models, frames):
    """As many as of a video, evenly spaced, where the built-in class answers blind."""
    asked, builtin = [Doc("What is shown?", (frames,)), Doc("Who?", (frames,))], onevision.builtin()
    blind = answer(builtin, asked)
    files = sorted(Path(frames).iterdir())
    shown = np.stack([np.asarray(Image.open(files[place])) for place in np.linspace(0, 11, FRAMES, dtype=int)])
    builtin.load_video = lambda *_: shown
    expected = answer(builtin, asked)
    check(answer(onevision.ours(method="full"), asked), expected)
    assert expected != blind


def test_other_readers_give_the_frames_asked_for(onevision: Models, videos):
    """The built-in pyav backend gives other numbers of frames for some files."""
    asked = docs("video", videos)
    ours = answer(onevision.ours(method="full", max_frames_num=5), asked)
    for arguments in ({"video_decode_backend": "pyav"}, {"reader": "pyav"}, {"reader": "decord"}):
        check(answer(onevision.ours(method="full", max_frames_num=5, **arguments), asked), ours)


def test_an_unknown_decoder(onevision: Models):
    with pytest.raises(ValueError, match=r"reader='film': expected one of pyav, decord, torchcodec$"):
        onevision.ours(method="full", video_decode_backend="film")


@pytest.mark.parametrize("more", [{"conv_template": "plain"}, {"mm_spatial_pool_mode": "max"}, {"max_frames_num": 3}])
def test_arguments_of_the_built_in_model(models: Models, videos, more):
    asked = docs("video", videos)
    ours = answer(models.ours(method="full", **more), asked)
    check(ours, answer(models.builtin(**more), asked))
    assert ours != answer(models.builtin(), asked)


def test_customized_config(onevision: Models, videos, tmp_path):
    content = json.loads((onevision.checkpoint / "config.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(content | {"mm_newline_position": "grid"}))
    more: dict[str, Any] = {"customized_config": str(tmp_path / "other.json")}
    asked = docs("video", videos)
    ours = answer(onevision.ours(method="full", **more), asked)
    check(ours, answer(onevision.builtin(**more), asked))
    assert ours != answer(onevision.builtin(), asked)


@pytest.mark.parametrize("more", [{"mm_newline_position": "frame"}, {"add_time_instruction": True}])
def test_arguments_of_llava_vid(vid: Models, videos, more):
    asked = docs("video", videos)
    ours = answer(vid.ours(method="full", **more), asked)
    check(ours, answer(vid.builtin(**more), asked))
    assert ours != answer(vid.builtin(), asked)


def test_a_checkpoint_that_is_left_as_it_is(vid: Models, videos):
    asked, more = docs("video", videos), {"overwrite": False, "mm_newline_position": "frame"}
    ours = answer(vid.ours(method="full", **more), asked)
    check(ours, answer(vid.builtin(**more), asked))
    assert ours != answer(vid.builtin(mm_newline_position="frame"), asked)


def test_tokens_around_a_video(tmp_path, videos):
    """Of checkpoints that were trained with a start and an end of it."""
    path = tiny.make_video_checkpoint(tmp_path / "LLaVA-Video-tiny-Qwen2", mm_use_im_start_end=True)
    marked, asked = Models("llava_vid", path), docs("video", videos)
    ours = marked.ours(method="full")
    check(answer(ours, asked), answer(marked.builtin(), asked))
    ours.model.config.mm_use_im_start_end = False
    ours.use(dycoke.build("full"), Samples())
    assert answer(ours, asked) != answer(marked.builtin(), asked)


def test_the_dtype_of_llava_vid_s_own_argument(vid: Models):
    assert vid.ours(method="full").model.dtype == torch.float16
    assert vid.ours(method="full", torch_dtype="bfloat16").model.dtype == torch.bfloat16
    assert vid.ours(method="full", torch_dtype="bfloat16", dtype="float32").model.dtype == torch.float32


def test_frames_by_seconds(vid: Models, videos):
    """Two seconds of video: two frames at one a second, unless `force_sample` wants max_frames_num of them."""
    asked = docs("video", videos)
    ours = answer(vid.ours(method="full", force_sample=False), asked)
    check(ours, answer(vid.builtin(force_sample=False), asked))
    assert ours != answer(vid.builtin(), asked)


def test_a_longer_context_for_short_language_models(tmp_path, videos):
    path = tiny.make_video_checkpoint(tmp_path / "LLaVA-Video-tiny-yi-Qwen2")
    tall = Models("llava_vid", path)
    ours, builtin = (load(max_frames_num=32) for load in (lambda **m: tall.ours(method="full", **m), tall.builtin))
    for key in ("rope_scaling", "max_sequence_length", "tokenizer_model_max_length", "rope_parameters"):
        assert getattr(ours.model.config, key, None) == getattr(builtin.model.config, key, None)
    assert ours.model.config.tokenizer_model_max_length == 4096 * 2
    asked = docs("video", videos)
    check(answer(ours, asked), answer(builtin, asked))


def test_two_readers(onevision: Models):
    with pytest.raises(ValueError, match="reader=pyav and video_decode_backend=decord: give one of them"):
        onevision.ours(method="full", video_decode_backend="decord", reader="pyav")
