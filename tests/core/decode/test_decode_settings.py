"""Settings and caches of transformers that a model with a decode method meets."""

import pytest
import torch
from transformers.cache_utils import StaticCache

import dycoke
from dycoke.methods import DynamicPruning
from tests.support.decode_subjects import DIM, LAYERS, language_model, prompt

PLAN = dycoke.Plan(decode=DynamicPruning(2, 0.5))
GIVEN = prompt("ttvvvvvvtt")
LENGTH = GIVEN.embeds.shape[1]
COLUMN = 2 * DIM // 2 * 4  # keys and values in a layer, two of four heads, fp32


@pytest.fixture
def attached():
    model = language_model("qwen2")
    with dycoke.attach(model, PLAN, visual=GIVEN.visual) as run, torch.no_grad():
        yield model, run


def test_a_config_without_a_cache(attached):
    model, run = attached
    model.config.use_cache = False
    with pytest.warns(UserWarning, match="use_cache=False: there is no cache to prune"):
        out = model(inputs_embeds=GIVEN.embeds)
    assert out.past_key_values is None and run.report.cache is None
    assert model(inputs_embeds=GIVEN.embeds, use_cache=True).past_key_values is not None
    assert run.report.cache.layers == LAYERS


@torch.no_grad()
def test_a_config_that_asks_for_attention_maps():
    model = language_model("qwen2")
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    with (
        dycoke.attach(model, PLAN, visual=GIVEN.visual),
        pytest.raises(ValueError, match="output_attentions=True: not available"),
    ):
        model(inputs_embeds=GIVEN.embeds)


def test_a_static_cache_gives_its_room_to_the_answer(attached):
    model, run = attached
    model(inputs_embeds=GIVEN.embeds, past_key_values=StaticCache(model.config, max_cache_len=LENGTH + 100))
    assert run.report.cache.device_bytes == LAYERS * COLUMN * (LENGTH + 100)
    model(inputs_embeds=GIVEN.embeds, past_key_values=StaticCache(model.config, max_cache_len=LENGTH + 1))
    assert run.report.cache.device_bytes == LAYERS * COLUMN * (LENGTH + 64)


def test_a_static_cache_of_before_that_was_reset(attached):
    model, run = attached
    used = StaticCache(model.config, max_cache_len=LENGTH)
    plain = language_model("qwen2")
    with torch.no_grad():
        plain(inputs_embeds=GIVEN.embeds, past_key_values=used)
        with pytest.raises(ValueError, match="of another request"):
            model(inputs_embeds=GIVEN.embeds, past_key_values=used)
        used.reset()
        model(inputs_embeds=GIVEN.embeds, past_key_values=used)
    assert run.report.cache.layers == LAYERS


def test_what_was_read_cannot_be_taken_back(attached):
    model, _ = attached
    cache = model(inputs_embeds=GIVEN.embeds).past_key_values
    for layer in cache.layers:
        layer.crop(0)
        with pytest.raises(ValueError, match="this cache cannot take tokens back"):
            layer.crop(1)


def test_a_policy_without_an_observer():
    class First(DynamicPruning):
        first_layer = 0

    with pytest.raises(ValueError, match=f"l=0: expected 1 to {LAYERS - 1}"):
        dycoke.apply(language_model("qwen2"), dycoke.Plan(decode=First()), visual=GIVEN.visual)


def test_a_step_without_positions_follows_the_cache(attached):
    model, _ = attached
    logits = []
    for given in (False, True):
        cache = model(inputs_embeds=GIVEN.embeds).past_key_values
        for t in range(3):
            assert cache.get_seq_length() == LENGTH + t
            positions = {"position_ids": torch.tensor([[LENGTH + t]])} if given else {}
            logits.append(model(input_ids=torch.tensor([[7 + t]]), past_key_values=cache, **positions).logits)
    assert torch.equal(torch.stack(logits[:3]), torch.stack(logits[3:]))


def test_the_length_within_a_step_is_that_before_it(attached):
    """As stock caches count when a step's mask and positions are made: without the column of its own token."""
    model, _ = attached
    found, stock = [], []
    for each, lengths in ((model, found), (language_model("qwen2"), stock)):
        cache = each(inputs_embeds=GIVEN.embeds).past_key_values

        def look(*_, cache=cache, lengths=lengths):
            lengths.append((cache.get_seq_length(), *cache.get_mask_sizes(1, 0)))

        each.model.layers[0].register_forward_pre_hook(look)
        for t in range(3):
            each(input_ids=torch.tensor([[7 + t]]), past_key_values=cache)
    assert found == stock == [(LENGTH + t, LENGTH + t + 1, 0) for t in range(3)]
