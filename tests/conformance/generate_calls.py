"""Calls of `generate`: ways to choose, criteria, streamers, given caches, several turns, and helpers that draft."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tests.conformance.call import ONE_OF_EACH, TEXT, call, config_of, generating
from tests.conformance.cases import CACHE, FAMILIES, Case

generating("greedy", families=FAMILIES)
generating("left padding", batch=True, families=FAMILIES)
generating("sampling", do_sample=True, temperature=0.8, top_k=20)
generating("min p", do_sample=True, min_p=0.05)
generating("several sequences", do_sample=True, num_return_sequences=2)
generating("beams", batch=True, num_beams=2)
generating("beams sampled", do_sample=True, num_beams=2)
generating("beams returned", num_beams=3, num_return_sequences=2)
generating("without a cache", use_cache=False)
generating("a static cache", cache_implementation="static")
generating("max_length", max_length=200, max_new_tokens=3)
generating("max_time", max_time=60.0)
generating("repetition penalty", repetition_penalty=1.3)
generating("a generation config", generation_config=GenerationConfig(max_new_tokens=3, pad_token_id=0))
generating(
    "logits processors",
    logits_processor=LogitsProcessorList([MinLengthLogitsProcessor(3, 5, device="cpu")]),
    max_new_tokens=3,
)


class Stops(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] % 3 == 0)


generating("stopping criteria", stopping_criteria=StoppingCriteriaList([Stops()]), max_new_tokens=6)


@call(engine=True, families=ONE_OF_EACH)
def everything_in_a_dict(case: Case) -> Any:
    out = case.generate(return_dict_in_generate=True, output_scores=True, output_logits=True, output_hidden_states=True)
    return [out.sequences, out.scores, out.logits, out.hidden_states]


@call(engine=True, families=ONE_OF_EACH)
def streamer(case: Case) -> Any:
    class Streamer:
        def __init__(self) -> None:
            self.ids = []

        def put(self, ids: torch.Tensor) -> None:
            self.ids += ids.flatten().tolist()

        def end(self) -> None:
            self.ids.append(-1)

    heard = Streamer()
    case.generate(streamer=heard)
    return heard.ids[case.inputs["input_ids"].shape[1] :] if case.family != "llava" else heard.ids[-5:]


@call(engine=True, families=ONE_OF_EACH)
def custom_generate(case: Case) -> Any:
    def decoding(model: nn.Module, input_ids: torch.Tensor, **options: Any) -> Any:
        return model._sample(input_ids, **{k: v for k, v in options.items() if k != "custom_generate"})

    return case.generate(custom_generate=decoding)


@call(engine=True, families=ONE_OF_EACH)
def a_given_dynamic_cache(case: Case) -> Any:
    bare, told = DynamicCache(), DynamicCache(config=config_of(case))
    return [case.generate(**{CACHE: bare}), case.generate(**{CACHE: told}), told.get_seq_length()]


@call(engine=True, families=ONE_OF_EACH)
def a_given_static_cache(case: Case) -> Any:
    cache = StaticCache(config=config_of(case), max_cache_len=case.length() + 6)
    return case.generate(**{CACHE: cache})


@call(engine=True)
def a_second_turn_with_a_fresh_cache(case: Case) -> Any:
    first = case.generate()
    if case.bare:
        return [first, case.generate()]
    inputs = dict(case.inputs)
    new = first[:, inputs["input_ids"].shape[1] :] if case.hf else first
    inputs["input_ids"] = torch.cat([inputs["input_ids"], new, torch.tensor([[5, 6]])], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return [first, case.model.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)]


@call(engine=True, families=TEXT)
def text_alone(case: Case) -> Any:
    ids = torch.tensor([[5, 6, 9, 4]])
    return case.model.generate(input_ids=ids, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)


@call(engine=True, families=ONE_OF_EACH)
def after_a_call_that_failed(case: Case) -> Any:
    with contextlib.suppress(ValueError):
        case.generate(no_such_option=1)
    hook = case.language_model.layers[1].register_forward_pre_hook(_fail)
    with contextlib.suppress(KeyError):
        case.forward()
    hook.remove()
    return [case.generate(), case.forward().logits]


def _fail(*_: Any) -> None:
    raise KeyError("inside a layer")


@call(engine=True, may=True, families=("hf_video", "qwen2"), refused={"keep_all": "cropped|prompt_lookup_num_tokens"})
def prompt_lookup(case: Case) -> Any:
    return case.generate(prompt_lookup_num_tokens=2, max_new_tokens=5)


@call(engine=True, may=True, families=("qwen2",), refused={"keep_all": "cropped|assistant_model"})
def another_model_assists(case: Case) -> Any:
    other = Case("qwen2").model
    return case.generate(assistant_model=other, max_new_tokens=5)


@call(engine=True, families=("hf_video", "qwen2"), refused={"keep_all": "assistant_model= is the model itself"})
def the_model_assists_itself(case: Case) -> Any:
    return case.generate(assistant_model=case.model, max_new_tokens=5)


@call(engine=True, families=("hf_video", "qwen2"), refused={"keep_all": r"guidance_scale=1\.5"})
def guidance(case: Case) -> Any:
    return case.generate(guidance_scale=1.5)


@call(engine=True, families=ONE_OF_EACH, refused={"full": "prefill_chunk_size=", "keep_all": "prefill_chunk_size="})
def a_prompt_in_pieces(case: Case) -> Any:
    return case.generate(prefill_chunk_size=7)
