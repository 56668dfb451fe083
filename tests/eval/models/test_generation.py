"""How answers are generated: as the task's settings say, and read as lmms-eval's own classes read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from dycoke.eval.models.generation import MAX_NEW_TOKENS, greedy_or_sampled
from dycoke.offline.answers import ending_ids
from tests.eval.models.asking import Doc, answer
from tests.eval.models.conftest import Models

SETTINGS = [
    {},
    {"max_new_tokens": 7, "until": ["\n\n"]},
    {"max_new_tokens": 7, "temperature": 0, "top_p": 0.5, "top_k": 3, "do_sample": False, "num_beams": 1},
    {"max_new_tokens": 7, "temperature": 0, "image_aspect_ratio": "original"},
    {"max_new_tokens": 7, "num_beams": 3},
    {"max_new_tokens": 7, "do_sample": True, "temperature": 0.5, "top_p": 0.9},
    {"max_new_tokens": 7, "do_sample": True, "temperature": 0.5, "top_k": 4, "repetition_penalty": 1.5},
]
OF_SAMPLING = ("temperature", "top_p", "top_k")
NOT_COMPARED = ("inputs", "attention_mask", "pad_token_id", "images", "modalities", "stopping_criteria")


def settings_of_generate(model: Any, docs: list[Doc], generation: Mapping[str, Any], monkeypatch) -> dict[str, Any]:
    """What `generate` is called with, beside the prompt: what is at its default, or means nothing, is left out."""
    calls = []

    def generate(*_: Any, **settings: Any) -> torch.Tensor:
        calls.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(model.model, "generate", generate)
    with pytest.raises(KeyboardInterrupt):
        answer(model, docs, generation=generation)
    (call,) = calls
    unset = OF_SAMPLING if not call.get("do_sample") else ()
    defaults = {"do_sample": False, "num_beams": 1, "top_p": None}
    left = {key: each for key, each in call.items() if key not in (*NOT_COMPARED, *unset)}
    return {key: each for key, each in left.items() if defaults.get(key, left) != each}


@pytest.mark.parametrize("generation", SETTINGS, ids=str)
def test_settings_of_a_task(models: Models, videos, generation, monkeypatch):
    docs = [Doc("What is shown?", (videos[0],))]
    ours = settings_of_generate(models.ours(method="full"), docs, generation, monkeypatch)
    assert ours == settings_of_generate(models.builtin(), docs, generation, monkeypatch)
    assert ours["use_cache"] is True
    assert ours["max_new_tokens"] == generation.get("max_new_tokens", MAX_NEW_TOKENS)
    if models.name == "llava_onevision" and generation.get("do_sample"):
        assert generation.items() <= ours.items()


def test_use_cache(models: Models, videos, monkeypatch):
    docs = [Doc("What is shown?", (videos[0],))]
    ours = settings_of_generate(models.ours(method="full", use_cache=False), docs, {}, monkeypatch)
    assert ours["use_cache"] is False


def test_greedy_or_sampled_as_the_temperature_says():
    assert greedy_or_sampled({"temperature": None}) == greedy_or_sampled({"do_sample": True})
    assert greedy_or_sampled({"temperature": 0, "num_beams": 2}) == {
        "max_new_tokens": 1024,
        "num_beams": 2,
        "do_sample": False,
    }
    sampled = greedy_or_sampled({"temperature": 0.2, "do_sample": False, "max_new_tokens": 3})
    assert (sampled["do_sample"], sampled["temperature"], sampled["max_new_tokens"]) == (True, 0.2, 3)


@pytest.mark.parametrize(("given", "ends"), [(5, {5}), ([5, 6], {5, 6}), (None, set())])
def test_ends_are_those_of_the_checkpoint(onevision: Models, given, ends):
    model = onevision.plain()
    model.generation_config.eos_token_id = given
    assert ending_ids(model) == ends
