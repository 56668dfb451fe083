"""A sample that cannot be answered ends the run with its task and doc_id; what was answered before is on disk."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import dycoke
from dycoke.eval.models.answering import SampleFailed
from dycoke.eval.models.dycoke_hf import LlavaOnevisionHF
from dycoke.eval.runs import samples as samples_module
from tests import warm
from tests.cli import files
from tests.eval.models.asking import TASK, Doc, answer, keeping, picture, requests
from tests.eval.models.conftest import Models
from tests.llava import test_lmms_adapters as tiny_tasks

ROOT = Path(__file__).resolve().parents[3]


def failure(model: Any, docs: list[Doc], **asked: Any) -> str:
    """The one line that a run ends with."""
    with pytest.raises(SampleFailed) as raised:
        answer(model, docs, **asked)
    message = str(raised.value)
    assert isinstance(raised.value, SystemExit)
    assert raised.value.code == message  # which Python prints, and exits with 1
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture(params=["llava_onevision", "llava_vid", "dycoke_hf"])
def full(request, onevision, vid, tmp_path) -> Any:
    """Each of the three models, with `full`."""
    if request.param == "dycoke_hf":
        return LlavaOnevisionHF(str(files.write_hf_checkpoint(tmp_path / "hf")), device="cpu", max_frames_num=8)
    return {"llava_onevision": onevision, "llava_vid": vid}[request.param].ours(method="full")


def test_a_missing_video(full, videos):
    docs = [Doc("What is shown here?", (videos[0],)), Doc("What?", ("/nowhere/film.mp4",))]
    samples = keeping(full)
    assert failure(full, docs) == f"task {TASK}, doc_id 1: /nowhere/film.mp4: no such file"
    assert [line["doc_id"] for line in samples.lines] == [0]
    assert answer(full, docs[:1]) == [samples.lines[0]["answer"]]


def test_a_video_that_is_cut(full, tmp_path):
    path = files.write_cut(tmp_path / "cut.mp4", 0.6, frames=60)
    assert failure(full, [Doc("What?", (str(path),))]) == f"task {TASK}, doc_id 0: {path}: truncated video file"


def test_a_video_that_cannot_be_decoded(full, tmp_path):
    path = files.write_video(tmp_path / "bad.mp4", frames=60, codec="libx264", options=files.FAST_START)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 8
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)
    assert f"doc_id 0: {path}: cannot be decoded; the file is damaged" in failure(full, [Doc("What?", (str(path),))])


def test_a_task_that_ends_the_process(full, videos):
    """As many of lmms-eval do where a video is missing."""

    def visual(doc: Doc) -> list[str]:
        sys.exit(f"video path:{doc.visuals[0]} does not exist, please check")

    message = failure(full, [Doc("What?", ("film.mp4",))], task="videomme", visual=visual)
    assert message == "task videomme, doc_id 0: video path:film.mp4 does not exist, please check"


def test_a_task_with_a_defect(full):
    message = failure(full, [Doc("What?")], visual=lambda doc: doc.nothing)
    assert message == f"task {TASK}, doc_id 0: AttributeError: 'Doc' object has no attribute 'nothing'"


def test_too_few_frames_for_the_method(models: Models, videos):
    layout = {"mm_newline_position": "one_token"} if models.name == "llava_vid" else {}
    official = models.ours(dycoke=True, dycoke_variant="official", max_frames_num=4, **layout)
    message = failure(official, [Doc("What?", (videos[0],))])
    assert f"task {TASK}, doc_id 0: " in message
    assert "needs at least 5 frames, got 4" in message


def test_a_failure_in_generate(full, videos, monkeypatch):
    docs = [Doc("What is shown here?", (videos[0],)), Doc("What?", (videos[1],))]
    samples = keeping(full)
    generate, calls = full.model.generate, []

    def second_fails(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("CUDA out of memory.\n  Try less.")
        return generate(*arguments, **keywords)

    monkeypatch.setattr(full.model, "generate", second_fails)
    assert failure(full, docs) == f"task {TASK}, doc_id 1: RuntimeError: CUDA out of memory. Try less."
    assert [line["doc_id"] for line in samples.lines] == [0]
    answers = answer(full, docs)  # goes on with what was missing
    assert len(calls) == 3
    assert answers[0] == samples.lines[0]["answer"]


def test_all_samples_of_a_batch_are_named(onevision: Models, videos, monkeypatch):
    model = onevision.ours(method="full", batch_size=3)

    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr(model.model, "generate", fails)
    docs = [Doc(question, (videos[0],)) for question in ("Aaaa?", "Bbb?", "Cc?")]
    model.task_dict.update(one={"test": docs}, two={"test": docs})
    with pytest.raises(SampleFailed) as raised:
        model.generate_until([*requests(docs[:2], "one"), *requests(docs[:1], "two")])
    assert str(raised.value) == "task one, doc_id 0, 1; task two, doc_id 0: MemoryError: none left"


def test_pictures_that_cannot_be_answered_about(onevision: Models, monkeypatch):
    model = onevision.ours(method="full")
    monkeypatch.setattr(model, "_image_processor", None)
    message = failure(model, [Doc("Text alone works"), Doc("What?", (picture(1, (60, 40)),))])
    assert message.startswith(f"task {TASK}, doc_id 1: AttributeError: ")


@pytest.mark.parametrize("shown", [("missing.mp4",), ("a.mp4", "b.mp4")])
def test_what_llava_vid_says_of_a_video_it_cannot_read_is_no_answer(vid: Models, shown):
    """It is asked itself where it adds a sentence about time, and about several files."""
    model = vid.ours(method="full", add_time_instruction=True)
    samples = keeping(model)
    message = failure(model, [Doc("What?", shown)])
    assert message == f"task {TASK}, doc_id 0: {', '.join(shown)}: the built-in model can not load it"
    assert not samples.lines


def test_a_full_disk(full, videos, monkeypatch, tmp_path):
    """A sample that cannot be written is none that was answered."""

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    full.use(dycoke.build("full"), samples_module.Samples(tmp_path / "samples.jsonl"))
    monkeypatch.setattr(samples_module, "append_line", no_space)
    message = failure(full, [Doc("What?", (videos[0],))])
    assert message == f"task {TASK}, doc_id 0: [Errno 28] No space left on device"
    assert not full.samples.answers


def test_an_interrupt_is_no_failure_of_the_sample(full, videos, monkeypatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(full.model, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer(full, [Doc("What?", (videos[0],))])


@pytest.mark.slow
@pytest.mark.xdist_group("warm")
def test_the_command_line_fails(onevision: Models, videos, tmp_path):
    """lmms-eval by itself logs an error and exits with 0."""
    docs = [
        {"question": "What is shown in it?", "answer": "A", "video": videos[0]},
        {"question": "What?", "answer": "A", "video": "/nowhere/film.mp4"},
    ]
    (tmp_path / "docs.json").write_text(json.dumps(docs))
    (tmp_path / "functions.py").write_text(tiny_tasks.FUNCTIONS)
    task = tiny_tasks.TASK.format(name="tiny_one_video", data=tmp_path / "docs.json", visual="one_video")
    (tmp_path / "one_video.yaml").write_text(task)
    samples = tmp_path / "samples.jsonl"
    given = onevision.arguments(dycoke=True, samples=samples)
    arguments = ",".join(f"{key}={value}" for key, value in given.items() if key != "device")
    command = [sys.executable, "-m", "lmms_eval", "--model", "llava_onevision", "--model_args", arguments]
    command += ["--tasks", "tiny_one_video", "--include_path", str(tmp_path), "--device", "cpu", "--batch_size", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home"), "CUDA_VISIBLE_DEVICES": ""}
    done = warm.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr[-4000:]
    assert "task tiny_one_video, doc_id 1: /nowhere/film.mp4: no such file" in done.stderr.splitlines()
    (line,) = map(json.loads, samples.read_text().splitlines())
    assert (line["task"], line["doc_id"]) == ("tiny_one_video", 0)
    assert line["visual_kept"] < line["visual_tokens"]
