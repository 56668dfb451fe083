"""Requests that fail, take turns, or share a model's config, while a method prunes what they decode."""

import copy
import gc
import weakref
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import dycoke
from dycoke.adapters import decoding
from dycoke.methods import DynamicPruning
from tests.core.subjects import PROMPTS, SUBJECTS, greedy
from tests.llava import tiny

CONFIG = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
PLAN = dycoke.Plan(decode=DynamicPruning(2, 0.5))
PROMPT = 12
VISUAL = torch.zeros(1, PROMPT, dtype=torch.bool)
VISUAL[:, 3:9] = True


def qwen(config: Qwen2Config | None = None) -> Qwen2ForCausalLM:
    model = Qwen2ForCausalLM(config or Qwen2Config(**CONFIG)).eval()
    tiny.fill_randomly(model)
    return model


def embeds(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, PROMPT, 32, generator=torch.Generator().manual_seed(seed))


def generate(model, **options) -> torch.Tensor:
    return model.generate(inputs_embeds=embeds(), max_new_tokens=4, do_sample=False, eos_token_id=None, **options)


@pytest.mark.parametrize("name", ["llava", "hf"])
@pytest.mark.parametrize("length", [4, 62])
def test_a_request_that_failed_leaves_no_visual_mask_behind(name, length):
    """It fails behind packing and ahead of the language model; the next has no visual tokens, and may be as long."""
    subject = SUBJECTS[name]()
    text = [([5, 6, 9, 4] * 16)[:length]]
    want = greedy(subject, text, eos_token_id=None)
    with dycoke.attach(subject.model, dycoke.build("dycoke", l=1, p=0.9)) as run:
        with pytest.raises(ValueError, match="no_such_option"):
            greedy(subject, PROMPTS["one_video"], no_such_option=1)
        assert torch.equal(greedy(subject, text, eos_token_id=None), want)
        assert run.report.cache.read_from == run.report.cache.read_below


@torch.no_grad()
def test_a_prefill_that_fails_does_not_end_the_request_before_it():
    model = qwen()
    token = torch.tensor([[3]])

    def fail(*_):
        raise KeyError("inside a layer")

    with dycoke.attach(model, PLAN, visual=VISUAL):
        cache = model(inputs_embeds=embeds()).past_key_values
        model(input_ids=token, past_key_values=cache)
        want = model(input_ids=token, past_key_values=cache).logits
        cache = model(inputs_embeds=embeds()).past_key_values
        model(input_ids=token, past_key_values=cache)
        hook = model.model.layers[2].register_forward_pre_hook(fail)
        with pytest.raises(KeyError, match="inside a layer"):
            model(inputs_embeds=embeds(1))
        hook.remove()
        torch.testing.assert_close(model(input_ids=token, past_key_values=cache).logits, want)


@torch.no_grad()
def test_a_refused_call_does_not_end_the_request_before_it():
    model, token = qwen(), torch.tensor([[3]])
    with dycoke.attach(model, PLAN, visual=VISUAL) as run:
        first = model(inputs_embeds=embeds(1)).past_key_values
        second = model(inputs_embeds=embeds()).past_key_values
        for cache in (first, copy.deepcopy(second)):
            with pytest.raises(ValueError, match="past_key_values= of another request"):
                model(input_ids=token, past_key_values=cache)
        got = model(input_ids=token, past_key_values=second).logits
        assert run.report.stages["decode"].tokens == 1
        third = model(inputs_embeds=embeds()).past_key_values
        torch.testing.assert_close(model(input_ids=token, past_key_values=third).logits, got)


@torch.no_grad()
def test_a_step_that_failed_half_way_cannot_be_taken_again():
    model, token = qwen(), torch.tensor([[3]])

    def fail(*_):
        raise KeyError("inside a layer")

    with dycoke.attach(model, PLAN, visual=VISUAL):
        cache = model(inputs_embeds=embeds()).past_key_values
        hook = model.model.layers[2].register_forward_pre_hook(fail)
        with pytest.raises(KeyError, match="inside a layer"):
            model(input_ids=token, past_key_values=cache)
        hook.remove()
        with pytest.raises(ValueError, match="a step of this request failed"):
            model(input_ids=token, past_key_values=cache)
    with pytest.raises(ValueError, match="of a method that was removed"):
        model(input_ids=token, past_key_values=cache)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_models_of_one_config(order):
    config = Qwen2Config(**CONFIG)
    models = [qwen(config), qwen(config)]
    alone = qwen()
    with dycoke.attach(alone, PLAN, visual=VISUAL):
        want = generate(alone)
    runs = [dycoke.apply(model, PLAN, visual=VISUAL) for model in models]
    assert [torch.equal(generate(model), want) for model in models] == [True, True]
    runs[order[0]].remove()
    assert torch.equal(generate(models[order[1]]), want)
    runs[order[1]].remove()
    assert config._attn_implementation == "sdpa"


@dataclass(slots=True, frozen=True)
class Frozen:
    keep: torch.Tensor


class Fixed:
    """Reads two columns it was given for each row, and keeps them in an object nothing can be set on."""

    first_layer = 2

    def budget(self, visual: int) -> int:
        return 2

    def start(self, visual):
        return Frozen(torch.tensor([[3, 5]]).repeat(len(visual), 1))

    def step(self, state, attn):
        state.keep.copy_(torch.where(attn[:, 3:4] > attn[:, 4:5], state.keep, state.keep.flip(1)))


def test_beams_reorder_whatever_holds_the_state():
    model, plan = qwen(), dycoke.Plan(decode=Fixed())
    with dycoke.attach(model, plan, visual=VISUAL, trace=True) as run:
        generate(model, num_beams=3)
    assert all(row[:3] == [0, 1, 2] and {3, 5} < set(row) and 4 not in row for step in run.report.keeps for row in step)


class Rows(NamedTuple):
    keep: torch.Tensor


def test_a_state_that_cannot_be_reordered_is_refused():
    class Tuple(Fixed):
        def start(self, visual):
            return Rows(super().start(visual).keep)

    model, said = qwen(), "state Rows: expected an object whose attributes can be set"
    with dycoke.attach(model, dycoke.Plan(decode=Tuple()), visual=VISUAL), pytest.raises(TypeError, match=said):
        generate(model)


class Widens(Fixed):
    def start(self, visual):
        return SimpleNamespace(keep=torch.tensor([[3, 5]]))

    def step(self, state, attn):
        state.keep = torch.arange(3, 9)[None]


@pytest.mark.parametrize(
    ("started", "error", "said"),
    [
        ({"kept": torch.tensor([[3, 5]])}, TypeError, "state SimpleNamespace: expected an attribute keep"),
        ({"keep": torch.tensor([3, 5])}, ValueError, r"state.keep of shape \(2,\): expected \[1, W\]"),
        ({"keep": torch.tensor([[3], [5]])}, ValueError, r"state.keep of shape \(2, 1\): expected \[1, W\]"),
    ],
)
def test_a_state_without_a_set_of_columns_is_refused(started, error, said):
    policy, model = Fixed(), qwen()
    policy.start = lambda visual: SimpleNamespace(**started)
    with dycoke.attach(model, dycoke.Plan(decode=policy), visual=VISUAL), pytest.raises(error, match=said):
        generate(model)


def test_a_set_that_grows_is_refused():
    """The list of columns to read has the width of the first one; text at the end would fall off it."""
    model, said = qwen(), r"state.keep of shape \(1, 6\): expected \(1, 2\)"
    with dycoke.attach(model, dycoke.Plan(decode=Widens()), visual=VISUAL), pytest.raises(ValueError, match=said):
        generate(model)


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize(
    "policy",
    [
        DynamicPruning(2, 0.5),
        DynamicPruning(2, 0.5, refresh=1.0),
        DynamicPruning(2, 0.5, "official"),
        DynamicPruning(2, 0.5, decode="one_shot"),
        DynamicPruning(2, 0.5, decode="random", refresh=1.0),
    ],
    ids=["paper", "every step", "official", "one_shot", "random"],
)
@torch.no_grad()
def test_rows_that_change_places_take_everything_along(monkeypatch, policy, place):
    """Two rows of different visual slots and padding, swapped in mid-answer, go on as if they had not been."""
    if place == "host":
        if policy.variant == "official":
            pytest.skip("the released code has no cache on the host")
        monkeypatch.setattr("dycoke.adapters.decoding.host_cache_works", lambda model: True)
        policy = replace(policy, dp_cache="host")
    model, visual, real = qwen(), VISUAL.repeat(2, 1), torch.ones(2, PROMPT, dtype=torch.long)
    visual[1], real[1, :2] = torch.tensor([0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 0]).bool(), 0
    prompt = torch.cat([embeds(0), embeds(1)])
    tokens = torch.randint(32, (6, 2), generator=torch.Generator().manual_seed(0))
    swap = torch.tensor([1, 0])
    with dycoke.attach(model, dycoke.Plan(decode=policy), visual=visual):
        answers = []
        for swapped in (False, True):
            cache, order, logits = model(inputs_embeds=prompt, attention_mask=real).past_key_values, swap.flip(0), []
            for t, ids in enumerate(tokens):
                if swapped and t == 3:
                    cache.reorder_cache(swap)
                    order = swap
                positions = (real.sum(1)[order] + t)[:, None]
                step = model(input_ids=ids[order][:, None], past_key_values=cache, position_ids=positions)
                logits.append(step.logits[order])
            answers.append(torch.stack(logits))
    torch.testing.assert_close(answers[1], answers[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_a_refresh_of_one_chooses_at_every_step_to_the_letter(variant):
    """Attention that stays as it is has a cosine of 1, or a rounding above it."""
    policy = DynamicPruning(2, 0.5, variant, refresh=1.0)
    state, attn = policy.start(VISUAL), torch.rand(1, PROMPT, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        policy.step(state, attn)
    assert state.selections.tolist() == [3]
    assert int((state.keep >= 0).sum()) == policy.budget(6)


def test_a_model_and_its_language_model_carry_one_method():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL):
        with pytest.raises(ValueError, match="Qwen2Model carries a method already; remove it first"):
            dycoke.apply(model.model, PLAN, visual=VISUAL)
        assert generate(model).shape == (1, 4)


def test_a_model_that_went_away_attached_leaves_nothing():
    config = Qwen2Config(**CONFIG)
    model, other = qwen(config), qwen(config)
    dycoke.apply(model, PLAN, visual=VISUAL)
    del model
    gc.collect()
    with dycoke.attach(other, PLAN, visual=VISUAL):
        generate(other)
    assert not decoding._stages and config._attn_implementation == "sdpa"


@torch.no_grad()
def test_packed_embeddings_serve_one_call():
    """Which of them are visual is known from packing, and would be guesswork later."""
    subject = SUBJECTS["llava"]()
    inputs = subject.inputs(PROMPTS["one_video"])
    with dycoke.attach(subject.model, dycoke.build("dycoke")) as run:
        packed = subject.model.prepare_inputs_labels_for_multimodal(
            inputs["input_ids"], None, inputs["attention_mask"], None, None,
            inputs["images"], inputs["modalities"], inputs["image_sizes"],
        )  # fmt: skip
        call = {"inputs_embeds": packed[4], "attention_mask": packed[2]}
        cache = subject.model(**call).past_key_values
        subject.model(input_ids=torch.tensor([[3]]), past_key_values=cache)
        assert run.report.cache.read_from < run.report.cache.read_below
        with pytest.raises(ValueError, match="inputs_embeds=: a method needs input_ids and images"):
            subject.model(**call)
        with pytest.warns(UserWarning, match="use_cache=False"):
            subject.model(**inputs, use_cache=False)
        with pytest.raises(ValueError, match="inputs_embeds=: a method needs input_ids and images"):
            subject.model(**call)


@torch.no_grad()
def test_a_language_model_called_by_position():
    model = qwen()
    ids = torch.randint(32, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    with dycoke.attach(model.model, PLAN, visual=VISUAL) as run:
        cache = model.model(ids).past_key_values
        model.model(torch.tensor([[3]]), None, None, cache)
        assert run.report.cache.read_from == run.report.cache.read_below - 3


def test_without_a_cache_it_warns_once_and_prunes_nothing():
    model = qwen()
    ids = {"input_ids": torch.arange(PROMPT)[None], "max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    want = model.generate(**ids, use_cache=False)
    with dycoke.attach(model, PLAN, visual=VISUAL), pytest.warns(UserWarning, match="use_cache=False") as warned:
        assert torch.equal(model.generate(**ids, use_cache=False), want)
    assert len([w for w in warned if "use_cache=False" in str(w.message)]) == 1


def test_nothing_of_a_request_outlives_it():
    """Keys and values are freed when the answer is there, without the garbage collector's help."""
    model, held = qwen(), []
    note = model.model.register_forward_hook(
        lambda module, args, kwargs, out: held.append(weakref.ref(out.past_key_values.layers[0].request)),
        with_kwargs=True,
    )
    gc.disable()
    try:
        with dycoke.attach(model, PLAN, visual=VISUAL) as run:
            generate(model)
            assert held and all(request() is None for request in held)
            assert run.report.cache.steps == 3  # and the report still tells
    finally:
        gc.enable()
        note.remove()
