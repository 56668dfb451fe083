"""What a sample's line says: every field, counted by hand or as the method's own report counts it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

import dycoke
from dycoke.eval.runs.samples import Samples, prompt_hash
from dycoke.lab.jsonl import read_lines
from tests.eval.models.asking import GREEDY, Doc, answer, keeping, picture, requests
from tests.eval.models.conftest import FRAMES, METHODS, Models
from tests.eval.models.direct import Direct

FIELDS = [
    "task",
    "doc_id",
    "prompt",
    "answer",
    "new_tokens",
    "reader",
    "frames",
    "visual_tokens",
    "visual_kept",
    "inside",
    "loop",
    "decode",
    "prompt_tokens",
    "read_below",
    "read_from",
    "batch",
    "ms",
    "peak_bytes",
]
PER_FRAME = 16  # visual tokens of a frame, by the tiny checkpoints' tower and pooling


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_line_has_every_field(models: Models, asked, tmp_path):
    file = tmp_path / "new folder" / "samples.jsonl"
    answers = answer(models.ours(dycoke=True, dycoke_l=1, dtype="float32", samples=str(file)), asked)
    lines = lines_of(file)
    assert len(lines) == len(asked)
    for line in lines:
        assert sorted(line) == sorted(FIELDS)
        doc = asked[line["doc_id"]]
        assert line["task"] == "pretend"
        assert line["answer"] == answers[line["doc_id"]]
        assert line["prompt"] == prompt_hash(doc.question, GREEDY)
        assert re.fullmatch(r"[0-9a-f]{64}", line["prompt"])
        assert line["batch"] == 1
        assert line["loop"] == "stock: the model is on the CPU"
        assert list(line["ms"]) == ["load", "vision", "compress", "prefill", "decode", "total"]
        assert all(ms > 0 for ms in line["ms"].values())
        stages = sum(ms for stage, ms in line["ms"].items() if stage != "total")
        assert stages <= line["ms"]["total"] + 1e-6
        assert line["peak_bytes"] is None or line["peak_bytes"] > 2**20
    assert [line["doc_id"] for line in lines] == [2, 3, 0, 4, 1]  # as they were answered
    assert len({line["prompt"] for line in lines}) == len(asked)


@pytest.mark.parametrize("name", METHODS)
def test_counts_are_those_of_the_report(models: Models, asked, name):
    given, method = METHODS[name]
    model, direct = models.ours(**given, dtype="float32"), Direct(models)
    samples = keeping(model)
    answer(model, asked)
    direct.answer(asked, method)
    for line in samples.lines:
        report, new = direct.reports[line["doc_id"]], direct.new[line["doc_id"]]
        (video,) = report.videos
        assert (line["frames"], line["visual_tokens"], line["visual_kept"]) == (video.frames, video.made, video.kept)
        assert (line["frames"], line["visual_tokens"]) == (FRAMES, FRAMES * PER_FRAME)
        assert line["inside"] == [[each.layer, each.tokens] for each in report.inside]
        assert line["prompt_tokens"] == report.stages["prefill"].tokens
        assert line["new_tokens"] == len(new) == report.stages["decode"].tokens + 1
        cache = report.cache
        read = (None, None) if cache is None else (cache.read_below, cache.read_from)
        assert (line["read_below"], line["read_from"]) == read
        assert (name == "full") == (cache is None)
        decode = (
            {"first_layer": 1, "visual_read": visual_columns_read(report, video.kept)} if name == "dycoke" else None
        )
        assert line["decode"] == decode
        assert line["reader"] == "pyav"


def visual_columns_read(report, kept: int) -> int:
    """Visual columns that the pruned layers read in the first step: those that were noted, less the text."""
    text = report.stages["prefill"].tokens - kept
    (columns,) = report.keeps[0]
    return len(columns) - 1 - text  # the token itself is a column of the answer


def test_fastv_inside(onevision: Models, asked):
    """k=1, r=0.5: half of the visual tokens go on into layer 1."""
    model = onevision.ours(**METHODS["fastv"][0], dtype="float32")
    samples = keeping(model)
    answer(model, asked)
    assert {json.dumps(line["inside"]) for line in samples.lines} == {f"[[1, {FRAMES * PER_FRAME / 2}]]"}


def test_text_of_the_prompt_counted_by_hand(onevision: Models, videos):
    """All of the prompt, the video's tokens and one newline behind them."""
    model = onevision.ours(method="full", dtype="float32")
    samples = keeping(model)
    answer(model, [Doc("What?", (videos[0],)), Doc("Hm, what?")])
    head = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    tail = "<|im_end|>\n<|im_start|>assistant\n"
    ids = {text: len(model.tokenizer(text).input_ids) for text in (head, tail, "\nWhat?", "Hm, what?")}
    by_doc = {line["doc_id"]: line for line in samples.lines}
    assert by_doc[0]["prompt_tokens"] == ids[head] + FRAMES * PER_FRAME + 1 + ids["\nWhat?"] + ids[tail]
    assert by_doc[1]["prompt_tokens"] == ids[head] + ids["Hm, what?"] + ids[tail]


@pytest.mark.parametrize("name", ["full", "dycoke"])
def test_pictures_and_text_have_no_frames(onevision: Models, name):
    """Nor visual tokens, which are those of videos; their answers are counted, ended by themselves or not."""
    given, method = METHODS[name]
    docs = [
        Doc("Which differs?", (picture(1, (60, 40)), picture(2, (50, 130)))),
        Doc("What is it?", (picture(3, (120, 80)),)),
        Doc("How many legs has a dog?"),
    ]
    model, direct = onevision.ours(**given, dtype="float32"), Direct(onevision)
    direct.answer(docs, method)
    end = direct.new[1][5]
    model.model.generation_config.eos_token_id = direct.model.generation_config.eos_token_id = end
    direct.new.clear()
    direct.answer(docs, method)
    samples = keeping(model)
    answer(model, docs)
    assert samples.new_tokens() == [len(new) for new in direct.new]
    assert len(set(samples.new_tokens())) > 1
    for line in samples.lines:
        assert (line["frames"], line["visual_tokens"], line["visual_kept"]) == (0, 0, 0)
        assert line["decode"] is None
        assert line["ms"]["total"] >= line["ms"]["prefill"] > 0
        if line["doc_id"] == 2:
            assert line["ms"]["vision"] is None


def test_rows_of_a_batch_share_what_was_measured_of_it(models: Models, asked):
    """Tokens of its video are a row's own, tokens in the language model the batch's mean."""
    given, method = METHODS["dycoke"]
    model, direct = models.ours(**given, dtype="float32", batch_size=3), Direct(models)
    samples = keeping(model)
    answer(model, asked)
    direct.answer(asked, method)
    for batch in (samples.lines[:3], samples.lines[3:]):
        prompts = [direct.reports[line["doc_id"]].stages["prefill"].tokens for line in batch]
        for line in batch:
            assert line["batch"] == len(batch)
            assert line["prompt_tokens"] == sum(prompts) / len(batch)
            assert line["visual_kept"] == direct.reports[line["doc_id"]].videos[0].kept
            assert line["decode"]["visual_read"] == visual_columns_read(
                direct.reports[line["doc_id"]], line["visual_kept"]
            )
            assert line["ms"] == batch[0]["ms"]
            assert sum(line["ms"].values()) <= 2 * line["ms"]["total"] + 1e-6
    assert samples.new_tokens() == [len(new) for new in direct.new]


def test_time_for_making_or_fetching_a_video_is_not_the_methods(onevision: Models, videos):
    def made(doc: Doc) -> list[str]:
        time.sleep(1)
        return list(doc.visuals)

    model = onevision.ours(method="full", dtype="float32")
    samples = keeping(model)
    answer(model, [Doc("What?", (videos[0],))], visual=made)
    (line,) = samples.lines
    assert 0 < line["ms"]["load"] < line["ms"]["total"] < 1000


def test_lines_are_on_disk_as_they_come(onevision: Models, asked, tmp_path):
    file = tmp_path / "samples.jsonl"
    model = onevision.ours(method="full", samples=str(file))
    there = []
    generate = model.generate
    model.generate = lambda clips, batch: (
        there.append(len(lines_of(file)) if file.exists() else 0) or generate(clips, batch)
    )
    answer(model, asked)
    assert there == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="there are samples in it already"):
        onevision.ours(method="full", samples=str(file))


@pytest.mark.parametrize("size", [1, 3])
def test_an_interrupted_file_is_gone_on_with(models: Models, asked, tmp_path, size):
    """Its last line is cut off; what is known is not asked again, and stands in the batch it stood in."""
    given, method = METHODS["dycoke"]
    model = models.ours(**given, dtype="float32", batch_size=size)
    file = tmp_path / "samples.jsonl"
    model.use(method, Samples(file))
    answers = answer(model, asked)
    whole = file.read_text().splitlines(keepends=True)
    file.write_text("".join(whole[:4]) + whole[4][:40])

    batches = []
    generate = model.generate
    model.generate = lambda clips, batch: batches.append([each.doc_id for each in batch]) or generate(clips, batch)
    model.use(method, Samples(file, read_lines(file, ("task", "doc_id", "prompt"))))
    assert answer(model, asked) == answers
    assert batches == {1: [[1]], 3: [[4, 1]]}[size]
    lines = list(read_lines(file, ("task", "doc_id", "prompt")))
    assert [line["doc_id"] for line in lines[:4]] == [json.loads(line)["doc_id"] for line in whole[:4]]
    assert {line["doc_id"]: line["answer"] for line in lines} == dict(enumerate(answers))
    assert answer(model, asked) == answers
    assert len(batches) == 1


def test_another_prompt_is_another_sample(onevision: Models, videos):
    """So are other settings of generation; the order in which a task gives them is none of it."""
    model = onevision.ours(method="full")
    samples = keeping(model)
    answer(model, [Doc("What?", (videos[0],))])
    answer(model, [Doc("What?", (videos[0],))], generation=dict(reversed(GREEDY.items())))
    assert len(samples.lines) == 1
    answer(model, [Doc("Who?", (videos[0],))])
    answer(model, [Doc("What?", (videos[0],))], generation=GREEDY | {"max_new_tokens": 3})
    answer(model, [Doc("What?", (videos[0],))], task="another")
    assert len(samples.lines) == 4
    assert len({(line["task"], line["prompt"]) for line in samples.lines}) == 4


def test_a_request_is_left_as_the_task_wrote_it(onevision: Models):
    """The built-in class writes sizes of pictures into it, and would make another prompt of it."""
    model = onevision.ours(method="full")
    docs = [Doc("What?", (picture(1, (60, 40)),))]
    model.task_dict["pretend"] = {"test": docs}
    asked = requests(docs)
    samples = keeping(model)
    assert model.generate_until(asked) == model.generate_until(asked)
    assert asked[0].args[1] == GREEDY
    assert len(samples.lines) == 1
    assert samples.asked == {("pretend", 0, prompt_hash("What?", GREEDY))}


def test_a_plan_that_prunes_inside_and_while_decoding(onevision: Models, asked):
    """What a step reads is of the tokens that are left at its first pruned layer."""
    plan = dycoke.build_plan({"inside": {"name": "pdrop", "layers": [1], "keep": 0.5}, "decode": "dycoke,l=2,p=0.75"})
    model = onevision.ours(plan=plan, dtype="float32")
    samples = keeping(model)
    answer(model, asked)
    half = FRAMES * PER_FRAME // 2
    for line in samples.lines:
        assert line["inside"] == [[1, half]]
        assert line["decode"] == {"first_layer": 2, "visual_read": half // 4}
