"""Which mask a language model is told in prefill: none where nothing is padding, for it would have to read it."""

import inspect

import pytest
import torch
from transformers import DynamicCache, Qwen2ForCausalLM

import dycoke
from tests.support.subjects import PROMPTS, SUBJECTS

CACHE = "cache" if "cache" in inspect.signature(Qwen2ForCausalLM.forward).parameters else "past_key_values"
NAMES = ["llava", "hf"]


@torch.no_grad()
def told(subject, inputs, *, cached=True):
    """The mask that the language model is told in one call of the model, which is given one in any case."""
    seen = []
    note = subject.language_model().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    config = subject.model.config.get_text_config()
    subject.model(**inputs, **({CACHE: DynamicCache(config=config)} if cached else {"use_cache": False}))
    note.remove()
    return seen[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["full", "dycoke"])
def test_none_where_nothing_is_padding(name, method):
    subject = SUBJECTS[name]()
    with dycoke.attach(subject.model, dycoke.build(method)):
        for rows in (1, 2):
            assert told(subject, subject.inputs(rows * PROMPTS["one_video"])) is None
        mask = told(subject, subject.inputs(PROMPTS["batch"]))
    assert mask.ndim == 2 and not mask.all() and mask.any(1).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_where_positions_have_gaps_or_there_is_no_cache(name):
    subject = SUBJECTS[name]()
    inputs = subject.inputs(PROMPTS["one_video"])
    with dycoke.attach(subject.model, dycoke.build("dycoke", positions="original")):
        assert told(subject, inputs).all()
    with dycoke.attach(subject.model, dycoke.build("dycoke", decode="off")):
        assert told(subject, inputs, cached=False).all()


def test_a_hole_in_the_callers_mask_stays():
    subject = SUBJECTS["hf"]()
    inputs = subject.inputs(PROMPTS["one_video"])
    inputs["attention_mask"][0, 1] = 0
    with dycoke.attach(subject.model, dycoke.build("dycoke")):
        assert told(subject, inputs)[0].tolist().count(0) == 1


def test_nothing_is_remembered_of_the_prompt_before():
    subject = SUBJECTS["llava"]()
    padded = subject.inputs(PROMPTS["batch"])
    with dycoke.attach(subject.model, dycoke.build("dycoke")):
        told(subject, subject.inputs(PROMPTS["one_video"]))
        assert not told(subject, padded).all()
