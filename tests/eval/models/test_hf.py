"""`dycoke_hf`: answers of checkpoints in transformers' format, against `generate` called by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

import dycoke
from dycoke.eval.models.dycoke_hf import LlavaOnevisionHF
from dycoke.video.frames import read_frames
from tests.cli.files import write_hf_checkpoint
from tests.eval.models.asking import GREEDY, Doc, answer, keeping, picture, telling
from tests.eval.models.conftest import FRAMES, METHODS

LONG = dict(GREEDY, max_new_tokens=20)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_hf_checkpoint(tmp_path_factory.mktemp("models") / "hf")


def load(checkpoint: Path, **more: Any) -> LlavaOnevisionHF:
    return LlavaOnevisionHF(pretrained=str(checkpoint), device="cpu", max_frames_num=FRAMES, **more)


class Direct:
    """The checkpoint in float32. new: ids generated for each question so far; reports: what each cost."""

    def __init__(self, checkpoint: Path, end: int | None = None) -> None:
        self.processor = AutoProcessor.from_pretrained(checkpoint)
        self.model = LlavaOnevisionForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        if end is not None:
            self.model.generation_config.eos_token_id = end
        self.new: list[list[int]] = []
        self.reports: list[Any] = []

    def answer(self, docs: Sequence[Doc], method: Any) -> list[str]:
        return [self._answer(doc, method) for doc in docs]

    def _answer(self, doc: Doc, method: Any) -> str:
        kind, count, shown = "video", 1, {"videos": None}
        if not doc.visuals:
            count, shown = 0, {}
        elif not isinstance(doc.visuals[0], str):
            kind, count, shown = "image", len(doc.visuals), {"images": list(doc.visuals)}
        else:
            shown = {"videos": [read_frames(doc.visuals[0], FRAMES)]}
        text = "<|im_start|>user " + f"<{kind}>\n" * count + doc.question + "<|im_end|><|im_start|>assistant"
        inputs = self.processor(text=[text], return_tensors="pt", **shown)
        with dycoke.attach(self.model, method) as run:
            ids = self.model.generate(**inputs, max_new_tokens=20, do_sample=False)
            self.reports.append(run.report)
        new = ids[0, inputs["input_ids"].shape[1] :]
        self.new.append(new.tolist())
        return self.processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def mixed(videos: list[str], frames: str) -> list[Doc]:
    return [
        Doc("What is shown?", (videos[0],)),
        Doc("Which one comes last of all?", (videos[1],)),
        Doc("Hm", (frames,)),
        Doc("Which differs?", (picture(1, (60, 40)), picture(2, (50, 130)))),
        Doc("What is it?", (picture(3, (120, 80)),)),
        Doc("How many legs has a dog?"),
        Doc("And what is next, if anything?", (videos[2],)),
    ]


@pytest.mark.parametrize("size", [1, 2, "auto"])
@pytest.mark.parametrize("name", METHODS)
def test_answers_are_those_of_generate(checkpoint, videos, frames, name, size):
    given, method = METHODS[name]
    docs = mixed(videos, frames)
    expected = Direct(checkpoint).answer(docs, method)
    assert answer(load(checkpoint, **given, batch_size=size), docs, generation=LONG) == expected
    assert len(set(expected)) == len(docs)
    if name != "full":
        assert expected != Direct(checkpoint).answer(docs, METHODS["full"][1])


def test_pixels_made_on_the_device(checkpoint, videos):
    docs = [Doc(question, (video,)) for question, video in zip(("What is shown?", "Hm"), videos, strict=False)]
    expected = answer(load(checkpoint, batch_size=2), docs)
    model = load(checkpoint, batch_size=2, preprocess="device")
    assert model._chat.on_device is not None
    assert answer(model, docs) == expected


def test_full_where_nothing_is_asked_for(checkpoint, videos):
    docs = [Doc("What is shown?", (videos[0],))]
    assert answer(load(checkpoint), docs, generation=LONG) == Direct(checkpoint).answer(docs, METHODS["full"][1])


def test_samples_say_what_reports_say(checkpoint, videos, frames):
    """Also of rows that end early, and in batches."""
    docs, method = mixed(videos, frames), METHODS["dycoke"][1]
    plain = Direct(checkpoint)
    plain.answer(docs, method)
    end = telling(plain.new)
    direct = Direct(checkpoint, end)
    direct.answer(docs, method)
    lengths = [len(row) for row in direct.new]
    assert len(set(lengths)) > 2
    for size in (1, 2):
        model = load(checkpoint, **METHODS["dycoke"][0], batch_size=size)
        model.model.generation_config.eos_token_id = end
        samples = keeping(model)
        answer(model, docs, generation=LONG)
        assert samples.new_tokens() == lengths
        for line in samples.lines:
            videos_of = direct.reports[line["doc_id"]].videos
            told = (line["frames"], line["visual_tokens"], line["visual_kept"])
            assert told == ((videos_of[0].frames, videos_of[0].made, videos_of[0].kept) if videos_of else (0, 0, 0))


def test_beams_do_not_hide_the_video(checkpoint, videos):
    model = load(checkpoint, method="dycoke", k=0.5)
    samples = keeping(model)
    answer(model, [Doc("What is shown?", (videos[0],))], generation={"max_new_tokens": 4, "num_beams": 2})
    (line,) = samples.lines
    assert (line["frames"], line["visual_tokens"]) == (FRAMES, FRAMES * 9)
    assert 0 < line["visual_kept"] < FRAMES * 9


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype(checkpoint, dtype, videos):
    model = load(checkpoint, dtype=dtype)
    assert model.model.dtype == getattr(torch, dtype)
    assert len(answer(model, [Doc("What is shown?", (videos[0],))])) == 1
    assert load(checkpoint).model.dtype == torch.float32  # on a CPU


def test_tokens_of_a_frame_are_compared(checkpoint):
    load(checkpoint, dycoke=True, dycoke_num_tokens_per_frame=9)
    with pytest.raises(ValueError, match=r"dycoke_num_tokens_per_frame=196: this model makes 9 tokens of a frame"):
        load(checkpoint, dycoke=True, dycoke_num_tokens_per_frame=196)


def test_other_visuals_are_refused(checkpoint):
    with pytest.raises(SystemExit, match="task pretend, doc_id 0: TypeError: visuals of type int: expected a path"):
        answer(load(checkpoint), [Doc("What?", (5,))])
