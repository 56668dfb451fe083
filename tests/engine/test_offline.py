"""Many requests through one model: the answers of one by one, in order, whatever stood together."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

import dycoke
from dycoke.families.requests import compressor_of, requests_of
from dycoke.model_shape import Shape
from dycoke.offline.batches import CPU_BYTES, Halving, KVBudget, form
from dycoke.offline.generate import generate_many
from tests.cases import mostly_thorough
from tests.support.subjects import HF_IMAGE, HF_VIDEO, SUBJECTS, Clip

NAMES = ["llava", "llava_grid", "llava_frame", "llava_llama", "hf"]
METHODS = {
    "full": {},
    "dycoke": {"k": 0.5, "l": 1},
    "holitom": {"layer": 1, "order": "raster"},
}  # the last counts by the content
ROWS = [  # of different lengths and frames, two videos in one, pictures, text alone
    [5, 6, Clip(8), 7, 8, 9],
    [5, Clip(8, 3), 7, 8, 9, 11, 12, 13],
    [4, 5, 6],
    [4, Clip(12, 4), 8, 9],
    [4, Clip(8, 1), Clip(8, 2), 8],
    [5, Clip(8, 5), 9],
    [7, 8, Clip(12, 6), 7, 8, 9],
    [6, Clip(None), 9, 8],
    [7, 3],
]
GREEDY = {"max_new_tokens": 10, "do_sample": False}


@pytest.fixture(scope="module", params=mostly_thorough(NAMES, ["llava", "llava_grid", "hf"]))
def subject(request):
    return SUBJECTS[request.param]()


@pytest.fixture(scope="module", params=NAMES)
def every_subject(request):
    return SUBJECTS[request.param]()


def requests(subject, rows=ROWS) -> list[dict]:
    """What `generate` takes, row by row."""
    return [subject.inputs([row]) for row in rows]


def kept_from(subject) -> dict:
    """Ids of placeholders are never generated."""
    return {"suppress_tokens": [HF_VIDEO, HF_IMAGE]} if subject.returns_prompt else {}


def one_by_one(subject, given: list[dict], **more) -> list[list[int]]:
    rows = []
    for each in given:
        out = subject.model.generate(**each, **{**GREEDY, **kept_from(subject), **more})
        rows.append(out[0, each["input_ids"].shape[1] if subject.returns_prompt else 0 :].tolist())
    return rows


def many(subject, given, **more) -> list[list[int]]:
    return [row.tolist() for row in generate_many(subject.model, given, **{**GREEDY, **kept_from(subject), **more})]


def batches_of(model, monkeypatch) -> list[int]:
    """Rows of every batch that `model` generates from now on."""
    found, generate = [], model.generate

    def spy(**inputs):
        found.append(len(inputs["attention_mask"]))
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", spy)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_answers_are_those_of_one_by_one(subject, method, monkeypatch):
    given = requests(subject)
    with dycoke.attach(subject.model, dycoke.build(method, **METHODS[method])):
        expected = one_by_one(subject, given)
        sizes = batches_of(subject.model, monkeypatch)
        assert many(subject, given) == expected
        assert sum(sizes) == len(given) > len(sizes)
        assert many(subject, given, max_batch=2) == expected
        assert many(subject, given[::-1]) == expected[::-1]
    assert len({tuple(row) for row in expected}) > 5


def test_without_a_method(subject):
    assert many(subject, requests(subject)) == one_by_one(subject, requests(subject))


def test_each_is_trimmed_behind_its_end(subject):
    given = requests(subject)
    plain = one_by_one(subject, given, eos_token_id=None)
    end = next(token for row in plain for token in row[2:-1] if not all(token in other for other in plain))
    expected = [row[: row.index(end) + 1] if end in row else row for row in plain]
    assert {len(row) for row in expected} - {10}
    assert many(subject, given, eos_token_id=end) == expected
    assert many(subject, [{**each, "eos_token_id": [end]} for each in given]) == expected


def test_settings_of_their_own(subject, monkeypatch):
    """Requests of one length of answer stand together."""
    given = requests(subject)
    expected = [row[: 4 + 3 * (number % 2)] for number, row in enumerate(one_by_one(subject, given))]
    for number, each in enumerate(given):
        each["max_new_tokens"] = 4 + 3 * (number % 2)
    assert many(subject, given) == expected


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_beams(name):
    subject = SUBJECTS[name]()
    given = requests(subject, ROWS[:6])
    with dycoke.attach(subject.model, dycoke.build("dycoke", k=0.5, l=1)):
        expected = one_by_one(subject, given, num_beams=2)
        assert many(subject, given, num_beams=2) == expected
        assert expected != one_by_one(subject, given)


def test_a_budget_makes_smaller_batches(subject, monkeypatch):
    family, given = requests_of(subject.model), requests(subject, [[5, Clip(8, seed), 7] for seed in range(6)])
    column = KVBudget.of(subject.model).column
    for method, options in (("full", {}), ("dycoke", {"k": 1, "l": 1})):
        with dycoke.attach(subject.model, dycoke.build(method, **options)) as run:
            length = family.length(given[0], compressor_of(run.plan)).most
            for rows in (1, 2, 4):
                sizes = batches_of(subject.model, monkeypatch)
                many(subject, given, kv_budget=(rows + 1) * (length + 10) * column - 1)
                assert sizes == [rows] * (6 // rows) + [6 % rows] * (6 % rows > 0)
                monkeypatch.undo()
    assert length < 8 * family.per_frame


def test_lengths_are_those_the_model_reads(every_subject):
    """Exactly where the method counts beforehand, and at most where it does not."""
    family = requests_of(every_subject.model)
    for row in ROWS:
        (given,) = requests(every_subject, [row])
        for method, options in METHODS.items():
            with dycoke.attach(every_subject.model, dycoke.build(method, **options)) as run:
                length = family.length(given, compressor_of(run.plan))
                every_subject.model.generate(**given, **GREEDY)
                read = run.report.stages["prefill"].tokens
            assert length.least <= read <= length.most
            newlines = family.newline in ("grid", "frame")
            if method != "holitom" and Clip(None) not in row and not newlines:
                assert length.least == read == length.most


def test_a_context_that_the_config_does_not_say_cuts_no_length(subject):
    family, before = requests_of(subject.model), compressor_of(None)
    lengths = [family.length(given, before) for given in requests(subject)]
    family.context = None
    assert [family.length(given, before) for given in requests(subject)] == lengths


def test_the_default_budget(monkeypatch):
    model = SUBJECTS["hf"]().model
    shape = Shape.of(model.config)
    assert KVBudget.of(model) == KVBudget(CPU_BYTES, shape.layers * 2 * shape.kv_heads * shape.head_dim * 4)
    assert KVBudget.of(model, 5).total == 5


def test_progress(subject):
    seen = []
    many(subject, requests(subject), max_batch=2, progress=lambda *told: seen.append(told))
    done = [count for count, _ in seen]
    assert done == sorted(done) and done[-1] == len(ROWS) == seen[0][1] and len(done) > 3
    assert many(subject, []) == []


class Lazy:
    """Requests that are made when they are asked for."""

    def __init__(self, subject) -> None:
        self.subject, self.made = subject, [0] * len(ROWS)

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, number: int) -> dict:
        if number >= len(ROWS):
            raise IndexError(number)
        self.made[number] += 1
        return self.subject.inputs([ROWS[number]])


def test_requests_are_looked_at_twice(subject):
    lazy = Lazy(subject)
    assert many(subject, lazy) == one_by_one(subject, requests(subject))
    assert lazy.made == [2] * len(ROWS)


def out_of_memory(model, most: int) -> tuple[list[int], Callable[[], None]]:
    """A device with room for `most` rows: the rows of each attempt, and what gives the memory back."""
    tried = []

    def tight(module, given):
        rows = len(given[0])
        if not tried or tried[-1] != rows or rows > most:
            tried.append(rows)
        if rows > most:
            raise torch.cuda.OutOfMemoryError("no room")

    return tried, model.lm_head.register_forward_pre_hook(tight).remove


def test_a_batch_out_of_memory_is_cut_in_two(subject):
    rows = [[5, Clip(8, seed), 7] for seed in range(6)]
    given = requests(subject, rows)
    with dycoke.attach(subject.model, dycoke.build("dycoke", k=0.5, l=1)):
        expected = one_by_one(subject, given)
        tried, give_back = out_of_memory(subject.model, 2)
        with pytest.warns(UserWarning, match="a batch of 6 rows ran out of GPU memory") as said:
            assert many(subject, given) == expected
        give_back()
        assert len(said) == 1
        assert tried[:2] == [6, 3] and set(tried[2:]) == {1, 2}
        _, give_back = out_of_memory(subject.model, 0)
        with pytest.raises(torch.cuda.OutOfMemoryError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            many(subject, given)
        give_back()


def test_halving():
    tried = []

    def run(part):
        tried.append(len(part))
        if len(part) > 3:
            raise torch.cuda.OutOfMemoryError
        return sum(part)

    halve = Halving(len)
    with pytest.warns(UserWarning):
        assert list(halve([1, 2, 3, 4, 5], run)) == [([1, 2, 3], 6), ([4, 5], 9)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [part for part, _ in halve([1] * 5, run)] == [[1] * 3, [1] * 2]
        assert list(halve([1, 2, 3], lambda part: None)) == [([1, 2, 3], None)]
    assert tried == [5, 3, 2, 3, 2]
    with pytest.raises(KeyError), warnings.catch_warnings():
        warnings.simplefilter("error")
        list(halve([1, 2], lambda part: {}[0]))


@pytest.mark.parametrize(
    ("columns", "total", "most", "sizes"),
    [
        ([10, 9, 5, 5, 5, 1, 1], 200, 64, [2, 4, 1]),
        ([10, 9, 5, 5, 5, 1, 1], 200, 3, [2, 3, 2]),
        ([10, 9, 5], 50, 64, [1, 1, 1]),
        ([10, 9, 5], None, 2, [2, 1]),
        ([], 50, 2, []),
    ],
)
def test_forming(columns, total, most, sizes):
    parts = form(columns, None if total is None else KVBudget(total, 10), most)
    assert [len(columns[part]) for part in parts] == sizes
    assert [each for part in parts for each in columns[part]] == columns


def complaint(subject, given, **more) -> str:
    def never(**_):
        raise AssertionError("something was generated")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError) as raised:
        patch.setattr(subject.model, "generate", never)
        generate_many(subject.model, given, **{**GREEDY, **more})
    return str(raised.value)


def test_what_does_not_fit_is_told_before_anything_is_generated(subject, monkeypatch):
    given = requests(subject, [*ROWS[:3], [4, *[5] * 99, Clip(8), 9]])
    column = KVBudget.of(subject.model).column
    told = complaint(subject, given, kv_budget=150 * column)
    length = requests_of(subject.model).length(given[3], compressor_of(None)).most
    assert told.startswith("requests[")
    told = complaint(subject, given[3:], kv_budget=150 * column)
    assert told == (
        f"requests[0]: a prompt of up to {length} tokens and 10 new ones take {(length + 10) * column} bytes of keys "
        f"and values; kv_budget is {150 * column}"
    )
    text = subject.model.config.get_text_config()
    monkeypatch.setattr(text, "max_position_embeddings", 80)
    assert "requests[3]: a prompt of" in complaint(subject, given[2:3] * 3 + given[3:])
    assert "fills the 80 tokens the model reads" in complaint(subject, given[3:])


def test_what_is_no_request(every_subject):
    good = requests(every_subject, ROWS[:1])
    two = {**good[0], "input_ids": torch.ones(2, 5, dtype=torch.long)}
    assert "requests[1]: in" in complaint(every_subject, [*good, two])
    assert "[1, L] of one prompt" in complaint(every_subject, [two])
    assert "of NoneType" in complaint(every_subject, [{}])
    name = "pixel_values_videos" if every_subject.returns_prompt else "images"
    lacking = {key: each for key, each in good[0].items() if key != name}
    words = "<video> ids for 0 videos" if every_subject.returns_prompt else "1 placeholders for 0 images"
    assert words in complaint(every_subject, [*good, lacking])
    if not every_subject.returns_prompt:
        assert "expected a list" in complaint(every_subject, [{**good[0], "images": torch.zeros(1, 3, 112, 112)}])
    assert f"{name}: expected in the requests" in complaint(every_subject, good, **{name: good[0][name]})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_batch": 0}, "max_batch=0: expected an integer of at least 1"),
        ({"kv_budget": 0}, "kv_budget=0: expected bytes"),
        ({"kv_budget": 1.5}, "kv_budget=1.5: expected bytes"),
        ({"max_new_tokens": 0}, "requests[0]: max_new_tokens=None: expected an integer of at least 1"),
        ({"max_length": 5}, "max_length: not available for many requests"),
        ({"num_return_sequences": 2}, "num_return_sequences: not available for many requests"),
    ],
)
def test_arguments_refused(given, words):
    subject = SUBJECTS["llava"]()
    assert words in complaint(subject, requests(subject, ROWS[:1]), **given)


def test_other_models_are_refused():
    model = SUBJECTS["llava"]().model.model
    with pytest.raises(ValueError, match="no videos can be given to LlavaQwenModel"):
        generate_many(model, [])
