"""Several questions at a time: the same answers as one by one, each row with an end of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import dycoke.offline.batches as batches_module
from dycoke.eval.models.answering import SampleFailed
from dycoke.eval.models.place import Place
from dycoke.eval.runs.samples import Samples
from dycoke.offline.answers import Generated
from dycoke.offline.batches import KVBudget
from dycoke.video.pixels import FrameSettings
from llava.conversation import conv_templates
from tests.cli.files import write_video
from tests.eval.models.asking import GREEDY, Doc, answer, keeping, requests, telling
from tests.eval.models.conftest import FRAMES, METHODS, Models
from tests.eval.models.direct import Direct

LONG = dict(GREEDY, max_new_tokens=24)
SPECIALS = "<|im_start|><|im_end|><|endoftext|>"


def batches_of(model: Any) -> list[list[tuple[str, int]]]:
    """Task and doc_id of the samples of every batch that `model` is about to answer."""
    found = []
    generate = model.generate

    def spy(clips, batch):
        found.append([(each.task, each.doc_id) for each in batch])
        return generate(clips, batch)

    model.generate = spy
    return found


@pytest.mark.parametrize("name", METHODS)
def test_three_at_a_time(models: Models, asked, name):
    given, _ = METHODS[name]
    one = answer(models.ours(**given, dtype="float32"), asked, generation=LONG)
    three = models.ours(**given, dtype="float32", batch_size="3")
    batches, samples = batches_of(three), keeping(three)
    assert answer(three, asked, generation=LONG) == one
    assert [[doc for _, doc in batch] for batch in batches] == [[2, 3, 0], [4, 1]]  # the longest questions first
    assert [line["batch"] for line in samples.lines] == [3, 3, 3, 2, 2]


@pytest.mark.parametrize("name", METHODS)
def test_as_many_as_the_budget_allows(models: Models, asked, name, monkeypatch):
    """Whatever stood together, the answers are those of one by one; rows are counted behind compression."""
    given, _ = METHODS[name]
    one = answer(models.ours(**given, dtype="float32"), asked, generation=LONG)
    auto = models.ours(**given, dtype="float32", batch_size="auto")
    batches, samples = batches_of(auto), keeping(auto)
    assert answer(auto, asked, generation=LONG) == one
    assert [[doc for _, doc in batch] for batch in batches] == [[2, 3, 0, 4, 1]]  # the longest questions first
    assert [line["batch"] for line in samples.lines] == [5] * 5
    text = len(auto.tok_encode(asked[2].question)) + len(auto.tok_encode(auto.shell()))
    video = 2 * 16 + 6 * 8 if name == "dycoke" else FRAMES * 16  # two windows of four: one whole frame, three halved
    video += {"llava_onevision": 1, "llava_vid": FRAMES * 4}[models.name]  # newlines
    column = KVBudget.of(auto.model).column
    for total, first in ((2 * (video + text + 24) * column, 2), (2 * (video + text + 24) * column - 1, 1), (1, 1)):
        monkeypatch.setattr(batches_module, "CPU_BYTES", total)
        batches.clear()
        keeping(auto)
        assert answer(auto, asked, generation=LONG) == one
        assert [doc for batch in batches for _, doc in batch] == [2, 3, 0, 4, 1]
        assert len(batches[0]) == first
        assert total > 1 or len(batches) == 5


def test_batches_of_a_run_that_goes_on(models: Models, asked, monkeypatch):
    """They are those of an uninterrupted one, whatever was answered."""
    auto = models.ours(method="full", dtype="float32", batch_size="auto")
    monkeypatch.setattr(batches_module, "CPU_BYTES", 2 * 500 * KVBudget.of(auto.model).column)
    batches, samples = batches_of(auto), keeping(auto)
    answer(auto, asked)
    whole = list(batches)
    assert 1 < len(whole) < 5
    first = [line for line in samples.lines if line["doc_id"] in {doc for _, doc in whole[0]}]
    again = models.ours(method="full", dtype="float32", batch_size="auto")
    batches = batches_of(again)
    again.samples = Samples(known=first)
    answer(again, asked)
    assert batches == whole[1:]


@pytest.mark.parametrize("size", [3, "auto"])
def test_a_batch_out_of_memory_is_answered_in_halves(models: Models, asked, size):
    given, _ = METHODS["dycoke"]
    one = answer(models.ours(**given, dtype="float32"), asked, generation=LONG)
    ours = models.ours(**given, dtype="float32", batch_size=size)
    samples, tried, generate = keeping(ours), [], ours.generate

    def tight(clips, batch):
        tried.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError("no room")
        return generate(clips, batch)

    ours.generate = tight
    with pytest.warns(UserWarning, match=f"a batch of {5 if size == 'auto' else 3} rows ran out of GPU memory"):
        assert answer(ours, asked, generation=LONG) == one
    assert tried == {3: [3, 2, 1, 2], "auto": [5, 3, 2, 1, 2]}[size]
    assert sorted(line["doc_id"] for line in samples.lines) == [0, 1, 2, 3, 4]
    assert sorted(line["batch"] for line in samples.lines) == [1, 2, 2, 2, 2]
    assert all(line["ms"]["total"] > line["ms"]["load"] > 0 for line in samples.lines)


def test_one_row_out_of_memory_is_named(onevision: Models, asked):
    ours = onevision.ours(method="full", dtype="float32", batch_size="auto")

    def full(clips, batch):
        raise torch.cuda.OutOfMemoryError("no room")

    ours.generate = full
    with pytest.warns(UserWarning), pytest.raises(SampleFailed, match=r"doc_id 2, .*: OutOfMemoryError: no room"):
        answer(ours, asked)


def test_processes_that_share_a_model_need_a_number(onevision: Models, monkeypatch):
    monkeypatch.setattr(Place, "replicated", property(lambda self: True))
    with pytest.raises(ValueError, match="batch_size='auto': processes that share one model need the same number"):
        onevision.ours(method="full", batch_size="auto")


def test_videos_of_different_lengths(vid: Models, tmp_path):
    """Two, four and six seconds, at a frame a second; each row's sample tells of its own."""
    films = [write_video(tmp_path / f"{seconds}.mp4", frames=4 * seconds) for seconds in (2, 4, 6)]
    docs = [Doc(question, (str(film),)) for question, film in zip(("What is it?", "Hm", "Who?"), films, strict=True)]
    given = {"method": "dycoke", "k": 0.5, "l": 1, "dtype": "float32", "force_sample": False}
    one, three = vid.ours(**given), vid.ours(**given, batch_size=3)
    alone, together = keeping(one), keeping(three)
    assert answer(three, docs, generation=LONG) == answer(one, docs, generation=LONG)
    for samples in (alone, together):
        counts = {line["doc_id"]: (line["frames"], line["visual_tokens"]) for line in samples.lines}
        assert counts == {0: (2, 32), 1: (4, 64), 2: (6, 96)}
    kept = [{line["doc_id"]: line["visual_kept"] for line in samples.lines} for samples in (alone, together)]
    assert kept[0] == kept[1]
    assert together.lines[0]["batch"] == 3


def test_pixels_made_on_the_device(models: Models, asked, monkeypatch):
    made = []
    call = FrameSettings.__call__
    monkeypatch.setattr(FrameSettings, "__call__", lambda *given: made.append(call(*given)) or made[-1])
    exact = models.ours(method="full", dtype="float32", batch_size=3)
    expected = answer(exact, asked)
    assert made == []
    assert answer(models.ours(method="full", dtype="float32", batch_size=3, preprocess="device"), asked) == expected
    assert [len(pixels) for pixels in made] == [8] * 5


def test_rows_end_where_the_model_ends_them(models: Models, asked):
    """An id that some rows generate earlier than others is an end of the checkpoint's."""
    given, method = METHODS["full"]
    direct = Direct(models)
    direct.answer(asked, method, max_new_tokens=24)
    ends = [telling(direct.new), 258]
    direct.new.clear()
    one = direct.answer(asked, method, max_new_tokens=24, eos_token_id=ends)
    lengths = [len(row) for row in direct.new]
    assert len(set(lengths)) > 2
    three = models.ours(**given, dtype="float32", batch_size=3)
    three.model.generation_config.eos_token_id = ends
    samples = keeping(three)
    assert answer(three, asked, generation=LONG) == one
    assert samples.new_tokens() == lengths


def test_rows_end_at_the_text_of_the_template(models: Models, asked, monkeypatch):
    """vicuna's one that goes before an answer in later turns alone, so that the prompts stay as they are."""
    template = {"conv_template": "vicuna_v1"}
    texts = answer(models.ours(method="full", dtype="float32", **template), asked, generation=LONG)
    # the criterion reads special tokens too, which no answer shows
    plain = [[char.isascii() and not char.isspace() and char not in SPECIALS and char for char in t] for t in texts]
    stop = telling([[char or None for char in row] for row in plain])
    monkeypatch.setitem(conv_templates, "vicuna_v1", dataclasses.replace(conv_templates["vicuna_v1"], sep2=stop))
    builtin = answer(models.builtin("float32", **template), asked, generation=LONG)
    lengths = {}
    for size in (1, 3):
        ours = models.ours(method="full", dtype="float32", batch_size=size, **template)
        samples = keeping(ours)
        assert answer(ours, asked, generation=LONG) == builtin
        lengths[size] = samples.new_tokens()
    assert lengths[1] == lengths[3]
    assert min(lengths[1]) < 24 == max(lengths[1])  # within a batch some rows end before others
    assert [text.endswith(stop) for text in builtin] == [length < 24 for length in lengths[1]]


@pytest.mark.parametrize(
    ("rows", "ends", "lengths"),
    [
        ([[5, 6, 7]], {9}, [3]),
        ([[5, 9, 7]], {9}, [2]),
        ([[5, 6, 0]], {9}, [3]),  # alone, a row is never filled up: it ended with that id
        ([[5, 6, 7], [5, 0, 0]], {9}, [3, 1]),  # ended by a text
        ([[5, 0, 7], [5, 9, 0]], {9}, [3, 2]),  # the id of padding within an answer
        ([[5, 0, 0], [5, 6, 7]], {0, 9}, [2, 3]),  # the padding is an end too
        ([[0, 0], [0, 7]], {9}, [0, 2]),
    ],
)
def test_lengths_of_answers(rows, ends, lengths):
    assert Generated(torch.tensor(rows), frozenset(ends), 0).lengths() == lengths


def test_batches_are_of_one_kind_of_generation_and_may_mix_tasks(onevision: Models, videos):
    model = onevision.ours(method="full", batch_size=2)
    batches, samples = batches_of(model), keeping(model)
    docs = [Doc(question, (videos[0],)) for question in ("Aaaa?", "Bbb?", "Cc?")]
    model.task_dict.update(one={"test": docs}, two={"test": docs[:1]})
    short = dict(GREEDY, max_new_tokens=2)
    model.generate_until([*requests(docs, "one"), *requests(docs[:1], "two"), *requests(docs[1:2], "two", short)])
    assert batches == [[("one", 0), ("two", 0)], [("one", 1), ("one", 2)], [("two", 0)]]
    assert len(samples.lines) == 5


def test_sampled_answers_are_told_apart(onevision: Models, videos):
    """lmms-eval's --repeats puts one request several times; greedy, it has one answer."""
    model = onevision.ours(method="full", dtype="float32", batch_size=2)
    model.task_dict["pretend"] = {"test": [Doc("What is shown?", (videos[0],)), Doc("Hm", (videos[1],))]}
    docs = model.task_dict["pretend"]["test"]
    samples = keeping(model)
    torch.manual_seed(0)
    (first, second), sampled = (
        requests(docs, generation={"max_new_tokens": 12}),
        {"do_sample": True, "temperature": 2.0},
    )
    greedy = model.generate_until([first, first, second, first])
    assert len(samples.lines) == 2
    assert greedy[0] == greedy[1] == greedy[3] != greedy[2]
    first, second = requests(docs, generation={"max_new_tokens": 12, **sampled})
    answers = model.generate_until([first, first, second, first])
    assert len(samples.lines) == 2 + 4
    assert len({answers[0], answers[1], answers[3]}) == 3
    again = model.generate_until([first, first, second, first])
    assert again == answers
    assert len(samples.lines) == 2 + 4


def test_llava_vid_samples_where_the_temperature_says_so(vid: Models, videos):
    model = vid.ours(method="full", dtype="float32")
    docs = [Doc("What is shown?", (videos[0],))]
    model.task_dict["pretend"] = {"test": docs}
    torch.manual_seed(0)
    for temperature, different in ((2.0, 3), (0, 1)):
        (request,) = requests(docs, generation={"max_new_tokens": 12, "temperature": temperature})
        assert len(set(model.generate_until([request] * 3))) == different
