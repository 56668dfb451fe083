"""Requests that fail, take turns, or share a model's config, while a method prunes what they decode."""

import copy
import gc
import weakref

import pytest
import torch
from transformers import Qwen2Config

import dycoke
from dycoke.stages import decode as decoding
from tests.support.decode_small import CONFIG, PLAN, PROMPT, VISUAL, embeds, generate, qwen
from tests.support.subjects import PROMPTS, SUBJECTS, greedy


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
        second = model(inputs_embeds=embeds()).past_key_values
        with pytest.raises(ValueError, match="past_key_values= of another request"):
            model(input_ids=token, past_key_values=copy.deepcopy(second))
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
