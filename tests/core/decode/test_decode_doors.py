"""What a method that prunes while decoding refuses, and how it says so."""

import warnings

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.cache_utils import DynamicCache, QuantizedCache

import dycoke
from dycoke.methods import DynamicPruning
from tests.llava import tiny
from tests.support.subjects import PROMPTS, SUBJECTS, greedy

LAYERS, PROMPT = 4, 12
SIZES = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
VISUAL = torch.zeros(1, PROMPT, dtype=torch.bool)
VISUAL[:, 3:9] = True
PLAN = dycoke.Plan(decode=DynamicPruning(2, 0.5))


def qwen(**options) -> Qwen2ForCausalLM:
    options = {**SIZES, "num_hidden_layers": LAYERS, "num_key_value_heads": 1, **options}
    model = Qwen2ForCausalLM(Qwen2Config(**options)).eval()
    tiny.fill_randomly(model)
    return model


def inputs() -> dict:
    return {"inputs_embeds": torch.randn(1, PROMPT, 32, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize("layer", [LAYERS, LAYERS + 1, 100])
def test_first_layer_beyond_the_model(layer):
    model = qwen()
    with pytest.raises(ValueError, match=rf"l={layer}: expected 1 to 3, because this model has 4 layers"):
        dycoke.apply(model, dycoke.Plan(decode=DynamicPruning(layer, 0.5)), visual=VISUAL)
    assert model.config._attn_implementation == "sdpa"
    with dycoke.attach(model, dycoke.Plan(decode=DynamicPruning(LAYERS - 1, 0.5)), visual=VISUAL):
        model.generate(**inputs(), max_new_tokens=2, pad_token_id=0)


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_first_layer_beyond_a_video_model(name):
    with pytest.raises(ValueError, match="l=4: expected 1 to 3"):
        dycoke.apply(SUBJECTS[name]().model, dycoke.build("dycoke", l=4))


def test_attention_that_cannot_be_observed():
    model = qwen()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match=r"attn_implementation='flex_attention': .* accepted: .*sdpa"):
        dycoke.apply(model, PLAN, visual=VISUAL)
    model.config._attn_implementation = "sdpa"
    model.model._supports_attention_backend = False
    with pytest.raises(ValueError, match="Qwen2Model: its attention cannot be observed"):
        dycoke.apply(model, PLAN, visual=VISUAL)
    with pytest.raises(ValueError, match="sliding_attention cannot be pruned; accepted: full_attention"):
        sliding = qwen(use_sliding_window=True, sliding_window=4, max_window_layers=2)
        dycoke.apply(sliding, PLAN, visual=VISUAL)


def test_host_cache_without_a_gpu_warns_once(monkeypatch):
    monkeypatch.setattr("dycoke.stages.decode.host_cache_works", lambda model: False)
    plan, model = dycoke.Plan(decode=DynamicPruning(2, 0.5, dp_cache="host")), qwen()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with dycoke.attach(model, plan, visual=VISUAL) as run:
            first = model.generate(**inputs(), max_new_tokens=4, pad_token_id=0, do_sample=False)
            assert run.report.cache.host_bytes == 0 and run.report.cache.device_bytes > 0
            model.generate(**inputs(), max_new_tokens=4, pad_token_id=0, do_sample=False)
    assert [str(w.message) for w in caught] == ["dp_cache='host' needs CUDA: the cache stays on the device"]
    with dycoke.attach(model, PLAN, visual=VISUAL):
        assert torch.equal(model.generate(**inputs(), max_new_tokens=4, pad_token_id=0, do_sample=False), first)


@pytest.mark.parametrize("visual", [None, torch.zeros(1, PROMPT), torch.zeros(PROMPT, dtype=torch.bool), [[True]]])
def test_bare_language_model_needs_a_mask(visual):
    with pytest.raises(ValueError, match=r"visual=.*Qwen2ForCausalLM needs a bool mask \[B, S\]"):
        dycoke.apply(qwen(), PLAN, visual=visual)


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_video_models_find_their_visual_tokens_themselves(name):
    with pytest.raises(ValueError, match="knows its visual tokens"):
        dycoke.apply(SUBJECTS[name]().model, dycoke.build("dycoke"), visual=VISUAL)


@pytest.mark.parametrize("shape", [(1, PROMPT + 1), (2, PROMPT)])
def test_mask_of_another_shape_than_the_prompt(shape):
    model = qwen()
    said = rf"visual mask of shape \({shape[0]}, {shape[1]}\) for a prompt of 1 row"
    mask = torch.ones(shape, dtype=torch.bool)
    with dycoke.attach(model, PLAN, visual=mask), pytest.raises(ValueError, match=said):
        model(**inputs())


def test_bare_language_model_has_no_frames_to_compress():
    model = qwen()
    with pytest.raises(ValueError, match="stage 'before' that drops tokens"):
        dycoke.apply(model, dycoke.build("dycoke"), visual=VISUAL)
    for method in (dycoke.build("full"), dycoke.build("dycoke", k=0.0, l=2)):  # these drop none
        with dycoke.attach(model, method, visual=VISUAL):
            model(**inputs())


def test_nothing_to_trace():
    with pytest.raises(ValueError, match="trace=True: this plan has no stage 'decode'"):
        dycoke.apply(SUBJECTS["llava"]().model, dycoke.build("full"), trace=True)


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_several_tokens_in_a_step(name):
    """Guesses would have to be taken back, and a chunk of the prompt would be taken for an answer."""
    subject = SUBJECTS[name]()
    prompts = [[5, 6, 7, 8, PROMPTS["one_video"][0][2], 5, 6, 7, 8, 5, 6]]
    with dycoke.attach(subject.model, dycoke.build("dycoke", k=0.0)):
        # From 5.24 on transformers refuses by itself a cache that cannot take tokens back.
        with pytest.raises(ValueError, match=r"leave out prompt_lookup_num_tokens|a cache that can be cropped"):
            greedy(subject, prompts, max_new_tokens=12, prompt_lookup_num_tokens=3, eos_token_id=None)
        assert greedy(subject, prompts, eos_token_id=None).shape == (1, 6)  # the next request is none the worse


def test_attention_is_not_changed_meanwhile():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL):
        model.set_attn_implementation("eager")
        with pytest.raises(ValueError, match="attn_implementation='eager' was set while a method is attached"):
            model(**inputs())


def test_attention_maps_are_not_there_to_return():
    model = qwen(attn_implementation="eager")
    with dycoke.attach(model, PLAN, visual=VISUAL), pytest.raises(ValueError, match="output_attentions=True"):
        model(**inputs(), output_attentions=True)


def test_caches_that_are_not_plain_or_not_fresh():
    model = qwen()
    old = model(**inputs()).past_key_values
    with dycoke.attach(model, PLAN, visual=VISUAL):
        offloading = DynamicCache(config=model.config)
        offloading.offloading = True  # as its argument does, beside making a stream, which needs a GPU
        with pytest.raises(ValueError, match="without offloading or quantization"):
            model(**inputs(), past_key_values=offloading)
        quantized = QuantizedCache.__new__(QuantizedCache)
        quantized.layers, quantized.offloading = [nn.Identity()], False
        with pytest.raises(ValueError, match="past_key_values=QuantizedCache"):
            model(**inputs(), past_key_values=quantized)
        with pytest.raises(ValueError, match="of another request: pass the whole prompt"):
            model(**inputs(), past_key_values=old)


def test_a_cache_outlives_its_method_only_to_say_so():
    model = qwen()
    step = {"input_ids": torch.tensor([[3]]), "position_ids": torch.tensor([[PROMPT]])}
    with dycoke.attach(model, PLAN, visual=VISUAL):
        cache = model(**inputs()).past_key_values
        model(**step, past_key_values=cache)
    with pytest.raises(ValueError, match="of a method that was removed"):
        model(**step, past_key_values=cache)


def test_a_cache_that_was_reset_serves_a_new_request():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL):
        want = model(**inputs())
        want.past_key_values.reset()
        got = model(**inputs(), past_key_values=want.past_key_values)
    torch.testing.assert_close(got.logits, want.logits)


def test_llama_without_grouped_heads_is_served():
    config = LlamaConfig(**SIZES, num_hidden_layers=LAYERS)
    model = LlamaForCausalLM(config).eval()
    tiny.fill_randomly(model)
    with dycoke.attach(model, PLAN, visual=VISUAL, trace=True) as run:
        model.generate(**inputs(), max_new_tokens=3, pad_token_id=0, do_sample=False, eos_token_id=None)
    assert [len(step[0]) for step in run.report.keeps] == [6 + 3 + 1, 6 + 3 + 2]
