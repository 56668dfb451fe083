"""`generate` of a model that carries a method answers as the stock loop does, and reports as it does."""

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

import dycoke
from tests.engine.asking import Heard, answers, generate, method
from tests.support.decode_small import PLAN, VISUAL, qwen
from tests.support.subjects import PROMPTS, SUBJECTS


def both(model, **options):
    """Ids of the stock loop and of the engine, and who answered the second time."""
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="off"):
        stock = generate(model, **options)
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run:
        return stock, generate(model, **options), run.report.loop


class Ended(StoppingCriteria):
    """Ends a row at its n-th new token."""

    def __init__(self, lengths: list[int], prompt: int) -> None:
        self.lengths, self.prompt = torch.tensor(lengths), prompt

    def __call__(self, input_ids, scores, **kwargs):
        return (input_ids.shape[1] - self.prompt >= self.lengths).to(input_ids.device)


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 5, "eos_token_id": list(range(1, 32))},
        {"bad_words_ids": [[3], [5]]},
        {"max_new_tokens": 1},
        {"max_new_tokens": 70},
    ],
    ids=str,
)
def test_greedy_settings(options):
    stock, ours, loop = both(qwen(), **options)
    assert torch.equal(ours, stock)
    assert loop == "engine"


@pytest.mark.parametrize("options", [{}, {"temperature": 0.4, "top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}], ids=str)
def test_sampling_draws_as_the_stock_loop_does(options):
    model, drawn = qwen(), []
    for engine in ("off", "on"):
        with dycoke.attach(model, PLAN, visual=VISUAL, engine=engine):
            torch.manual_seed(5)
            drawn.append(generate(model, do_sample=True, **options))
    assert torch.equal(*drawn)
    torch.manual_seed(6)
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        assert not torch.equal(generate(model, do_sample=True, temperature=3.0), drawn[0])


def test_rows_end_apart():
    """Of a batch, each row at its own end-of-sequence; what follows is padding, and the longest decides."""
    subject = SUBJECTS["llava"]()
    free, _ = answers(subject, PROMPTS["batch"], method("dycoke"), "off", eos_token_id=None)
    ends = sorted({int(free[0, 1]), int(free[1, 4])})
    options = {"eos_token_id": ends, "pad_token_id": 0}
    stock, _ = answers(subject, PROMPTS["batch"], method("dycoke"), "off", **options)
    ours, report = answers(subject, PROMPTS["batch"], method("dycoke"), "on", **options)
    assert torch.equal(ours, stock)
    assert report.loop == "engine"
    assert (ours == 0).any()


@pytest.mark.parametrize("lengths", [[2, 5, 3, 4], [1, 1, 1, 1], [8, 8, 2, 8]], ids=str)
@pytest.mark.parametrize("eos", [None, [63]], ids=str)
def test_criteria_of_the_user(lengths, eos):
    subject = SUBJECTS["llava"]()
    criteria = StoppingCriteriaList([Ended(lengths, prompt=0)])
    options = {"stopping_criteria": criteria, "eos_token_id": eos, "pad_token_id": 0}
    stock, _ = answers(subject, PROMPTS["batch"], method("dycoke"), "off", **options)
    ours, report = answers(subject, PROMPTS["batch"], method("dycoke"), "on", **options)
    assert torch.equal(ours, stock)
    assert report.stages["decode"].tokens == 4 * (max(lengths) - 1)


def test_a_streamer_by_position():
    subject, heard = SUBJECTS["hf"](), Heard()
    with dycoke.attach(subject.model, method("full"), engine="on"):
        inputs, config = subject.inputs(PROMPTS["text"]), GenerationConfig(max_new_tokens=3, do_sample=False)
        subject.model.generate(inputs.pop("input_ids"), config, None, None, None, None, None, heard, **inputs)
    assert len(heard.put_ids) == 4
    assert heard.ended


def test_tokens_are_streamed():
    model, heard = qwen(), Heard()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        ids = generate(model, streamer=heard)
    assert heard.put_ids == [[[]], *([token] for token in ids[0].tolist())]
    assert heard.ended


@pytest.mark.parametrize("visual", [VISUAL, torch.zeros_like(VISUAL)], ids=["video", "text"])
def test_the_report_counts_as_in_the_stock_loop(visual):
    model, reports = qwen(), []
    for engine in ("off", "on"):
        with dycoke.attach(model, PLAN, visual=visual, engine=engine) as run:
            generate(model)
            reports.append(run.report)
    stock, ours = reports
    assert {name: each.tokens for name, each in ours.stages.items()} == {
        name: each.tokens for name, each in stock.stages.items()
    }
    for name in ("steps", "read_below", "read_from", "selections"):
        assert getattr(ours.cache, name) == getattr(stock.cache, name), name
    assert ours.cache.steps == 7 and ours.cache.read_below is not None
    assert ours.cache.device_bytes > stock.cache.device_bytes  # a bucket's columns


def test_rows_that_stand_for_nothing_are_not_counted():
    """Three rows run in a bucket of four."""
    subject, prompts, read = SUBJECTS["llava"](), PROMPTS["batch"][:3], []
    for engine in ("off", "on"):
        cache = answers(subject, prompts, method("dycoke"), engine)[1].cache
        read.append((cache.read_below, cache.read_from))
    assert read[0] == read[1]
