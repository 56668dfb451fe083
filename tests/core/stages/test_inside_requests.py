"""Requests whose tokens leave inside the model: what generate can do, what is refused, and what is left behind."""

import pytest
import torch
from transformers import StaticCache

import dycoke
from dycoke.methods.fastv import FastV
from dycoke.methods.pdrop import Stage
from dycoke.types import Plan
from tests.cases import folded
from tests.support.decode_small import PROMPT, VISUAL, embeds, generate, qwen
from tests.support.subjects import PROMPTS, SUBJECTS, forward, greedy

MILD = {
    "fastv": {"k": 1, "r": 0.5},
    "pdrop": {"layers": (1, 2, 3)},
    "sparsevlm": {"layers": (0, 1, 2)},
}
NOTHING = {
    "fastv": {"k": 1, "r": 0.0},
    "pdrop": {"layers": (1, 2), "keep": 1.0},
    "sparsevlm": {"layers": (0, 1, 2), "keep": 1.0},
}


def build(name: str, options: dict = MILD):
    return dycoke.build(name, **options[name])


@folded("prompt", ["batch", "two_videos", "text"])
@pytest.mark.parametrize("subject", ["llava", "llava_grid", "llava_llama", "hf"])
@pytest.mark.parametrize("name", NOTHING)
def test_nothing_dropped_is_the_untouched_model(name, subject, prompt):
    subject = SUBJECTS[subject]()
    ids, (logits, real) = greedy(subject, PROMPTS[prompt]), forward(subject, PROMPTS[prompt])
    with dycoke.attach(subject.model, build(name, NOTHING)):
        got_ids, (got, got_real) = greedy(subject, PROMPTS[prompt]), forward(subject, PROMPTS[prompt])
    assert torch.equal(got_ids, ids) and torch.equal(got_real, real)
    torch.testing.assert_close(got[real], logits[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MILD)
def test_rows_of_a_batch_do_not_see_each_other(name):
    """A row is answered as it is alone, whatever leaves the rows beside it."""
    subject = SUBJECTS["llava"]()
    with dycoke.attach(subject.model, build(name)) as run:
        together = greedy(subject, PROMPTS["batch"], eos_token_id=None)
        tokens = [each.tokens for each in run.report.inside]
        alone, counted = [], torch.zeros(len(tokens), dtype=torch.int64)
        for row in PROMPTS["batch"]:
            alone.append(greedy(subject, [row], eos_token_id=None))
            counted += torch.tensor([each.tokens for each in run.report.inside])
    assert torch.equal(together, torch.cat(alone))
    assert counted.tolist() == tokens


@pytest.mark.parametrize("name", MILD)
@pytest.mark.parametrize("subject", ["llava", "hf"])
def test_beams_and_return_sequences(subject, name):
    """Beams of a batch are those of each row; one beam is greedy."""
    subject = SUBJECTS[subject]()
    options = {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": None}
    rows = PROMPTS["two_videos"] + PROMPTS["videos_side_by_side"]
    with dycoke.attach(subject.model, build(name)):
        together = greedy(subject, rows, **options)
        assert torch.equal(together, torch.cat([greedy(subject, [row], **options) for row in rows]))
        assert not torch.equal(together[0], greedy(subject, rows[:1], eos_token_id=None)[0]) or len(set(together)) > 1


@pytest.mark.parametrize("name", MILD)
def test_static_cache_and_eager_attention_answer_alike(name):
    answers = []
    for options in ({}, {"cache_implementation": "static"}):
        subject = SUBJECTS["llava"]()
        with dycoke.attach(subject.model, build(name)):
            answers.append(greedy(subject, PROMPTS["batch"], eos_token_id=None, **options))
    subject = SUBJECTS["llava"]()
    subject.language_model().set_attn_implementation("eager")
    with dycoke.attach(subject.model, build(name)):
        answers.append(greedy(subject, PROMPTS["batch"], eos_token_id=None))
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


def test_a_plan_of_no_pruners_is_no_stage():
    assert Plan(inside=()) == Plan() and Plan(inside=()).pruners == ()


def test_without_a_cache_a_prefill_is_the_same():
    model = qwen()
    with dycoke.attach(model, build("fastv"), visual=VISUAL) as run:
        want = model(inputs_embeds=embeds()).logits
        got = model(inputs_embeds=embeds(), use_cache=False).logits
        assert run.report.inside[0].tokens == 3 and run.report.cache is None
    torch.testing.assert_close(got, want)
    assert got.shape[1] == PROMPT - 3


def test_report_says_what_went_on():
    model = qwen()
    with dycoke.attach(model, build("pdrop"), visual=VISUAL) as run:
        generate(model)
        report = run.report
    assert [(each.layer, each.tokens, each.columns) for each in report.inside] == [
        (1, 3, None),
        (2, 1, None),
        (3, 1, None),
    ]
    # Prompt columns of layers 0 to 3, and the answer's: one at the first of three steps, then two, then three.
    assert report.cache.read_below == (12 + 9 + 7 + 7) / 4 + 2
    assert report.cache.read_from is None and report.cache.first_layer == 4
    text = str(report)
    assert "visual tokens from layer 1 on: 3" in text and "tokens read a step, layers 0-3: 10.8" in text
    assert "chosen anew" not in text


def test_memory_of_the_cache_goes_down():
    held = []
    for r in (0.0, 1.0):
        model = qwen()
        with dycoke.attach(model, dycoke.build("fastv", k=1, r=r), visual=VISUAL) as run:
            generate(model)
            held.append(run.report.cache.device_bytes)
    column = 2 * 16 * 4  # keys and values of one head of 16 channels in fp32
    assert held[0] - held[1] == 3 * 6 * column  # six tokens less in three of four layers


def test_two_requests_do_not_see_each_other():
    model = qwen()
    with dycoke.attach(model, build("pdrop"), visual=VISUAL):
        want = generate(model)
        model(inputs_embeds=embeds(1))
        assert torch.equal(generate(model), want)


def test_a_model_is_given_back():
    model = qwen()
    untouched, name = generate(model), model.config._attn_implementation
    hooks = [len(layer._forward_pre_hooks) for layer in model.model.layers]
    for _ in range(2):
        with dycoke.attach(model, build("fastv"), visual=VISUAL):
            assert not torch.equal(generate(model), untouched)
            assert [len(layer._forward_pre_hooks) for layer in model.model.layers] != hooks
    assert [len(layer._forward_pre_hooks) for layer in model.model.layers] == hooks
    assert torch.equal(generate(model), untouched) and model.config._attn_implementation == name


@pytest.mark.parametrize(
    "method,said",
    [
        (dycoke.build("fastv", k=4), "k=4: expected 1 to 3, because this model has 4 layers"),
        (dycoke.build("pdrop"), "layers=8: expected 0 to 3"),
        (dycoke.build("sparsevlm"), "layers=6: expected 0 to 2"),
        (Plan(inside=dycoke.build("holitom").plan().inside), "layer=18: expected 1 to 3"),
        (Plan(inside=dycoke.build("flashvid").plan().inside), "layer=20: expected 1 to 3"),
        (Plan(inside=dycoke.build("prunevid").plan().inside), "layer=10: expected 0 to 2"),
    ],
)
def test_layers_a_model_does_not_have(method, said):
    model = qwen()
    with pytest.raises(ValueError, match=said):
        dycoke.apply(model, method, visual=VISUAL)
    assert dycoke.attach(model, build("fastv"), visual=VISUAL)  # nothing of it is left on the model


class Evicting(FastV):
    evicts = True


class Renumbering(Evicting):
    positions = "packed"


@pytest.mark.parametrize(
    "pruners,said",
    [((Renumbering(2),), "Renumbering"), ((FastV(1), Stage(2, 0.5), Evicting(3)), "Evicting")],
    ids=["itself", "one before"],
)
def test_one_that_evicts_where_positions_move(pruners, said):
    """Its layers would share how far decoded tokens move back, which in those before it is less."""
    with pytest.raises(ValueError, match=f"{said}: one that evicts cannot renumber positions, nor come behind one"):
        dycoke.apply(qwen(), Plan(inside=pruners), visual=VISUAL)


def test_what_names_slots_of_the_whole_prompt_is_refused():
    model = qwen()
    with dycoke.attach(model, build("fastv"), visual=VISUAL):
        with pytest.raises(ValueError, match="labels=: not accepted while a method shortens the sequence"):
            model(inputs_embeds=embeds(), labels=torch.zeros(1, PROMPT, dtype=torch.long))
        with pytest.raises(ValueError, match="logits_to_keep=: a tensor of slots"):
            model(inputs_embeds=embeds(), logits_to_keep=torch.tensor([3]))


def test_entries_on_the_host_and_tokens_that_leave():
    """Layers from l on share one map of slots, so nothing may leave behind the observer; before it is fine."""
    model = qwen()
    pruning = {"p": 0.5, "dp_cache": "host"}
    late = Plan(inside=dycoke.build("fastv", k=2), decode=dycoke.build("dynamic_pruning", layer=2, **pruning))
    with pytest.raises(ValueError, match="dp_cache='host' with tokens dropped at layer 2"):
        dycoke.apply(model, late, visual=VISUAL)


def test_a_static_cache_given_by_hand():
    model = qwen()
    with dycoke.attach(model, build("pdrop"), visual=VISUAL):
        want = model(inputs_embeds=embeds()).logits
        cache = StaticCache(model.config, max_cache_len=PROMPT + 4)
        torch.testing.assert_close(model(inputs_embeds=embeds(), past_key_values=cache).logits, want)


@pytest.mark.parametrize(
    "name,options,error,said",
    [
        ("fastv", {"k": 0}, ValueError, "k=0: expected 1 to the model's last layer"),
        ("fastv", {"k": 1.5}, TypeError, r"k=1\.5: expected an integer"),
        ("fastv", {"r": 1.1}, ValueError, r"r=1\.1"),
        ("pdrop", {"layers": (8, 4)}, ValueError, r"layers=\[8, 4\]: expected each deeper than the one before"),
        ("pdrop", {"layers": ()}, TypeError, r"layers=\(\): expected one layer or more"),
        ("pdrop", {"layers": 3}, TypeError, "layers=3: expected one layer or more"),
        ("pdrop", {"layers": "abc"}, TypeError, "layers='abc': expected one layer or more"),
        ("pdrop", {"layers": {1: 2}}, TypeError, r"layers=\{1: 2\}: expected one layer or more"),
        ("sparsevlm", {"layers": 3}, TypeError, "layers=3: expected one layer or more"),
        ("prunevid", {"layer": -1}, ValueError, "layer=-1: expected 0 to"),
        ("flashvid", {"layer": 0}, ValueError, "layer=0: expected 1 to"),
        ("flashvid", {"inner_keep": 0.0}, ValueError, r"inner_keep=0\.0"),
        ("holitom", {"layer": 1.5}, TypeError, r"layer=1\.5: expected an integer"),
        ("pdrop", {"layers": (-1, 4)}, ValueError, "layers=-1: expected 0 to"),
        ("pdrop", {"keep": 0}, ValueError, r"keep=0: expected a number in \(0, 1\]"),
        ("sparsevlm", {"layers": (2, 6)}, ValueError, r"layers=\(2, 6\): expected three layers"),
        ("sparsevlm", {"keep": 2.0}, ValueError, r"keep=2\.0"),
        ("sparsevlm", {"budget": 100}, ValueError, "budget=100: expected one of 192, 128, 96, 64, or 0 for keep"),
        ("sparsevlm", {"budget": -64}, ValueError, "budget=-64: expected an integer from 0"),
        ("sparsevlm", {"budget": "64"}, TypeError, "budget='64': expected an integer"),
        ("sparsevlm", {"budget": 64, "keep": 0.2}, ValueError, r"budget=64 with keep=0\.2: expected one of the two"),
    ],
)
def test_options_out_of_range(name, options, error, said):
    with pytest.raises(error, match=said):
        dycoke.build(name, **options)
