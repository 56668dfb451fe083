"""Forward passes on a cache: steps, resets, looking into it, copies, rows repeated and selected."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    DynamicCache,
    StaticCache,
)

from tests.conformance.call import call, config_of
from tests.conformance.cases import CACHE, Case, cache_of


@call()
def steps_on_a_cache(case: Case) -> Any:
    cache = cache_of(case.forward())
    return [case.step(cache, token).logits for token in (3, 4, 7)]


@call(refused={"keep_all": "a step of 3 tokens"})
def several_tokens_on_a_cache(case: Case) -> Any:
    cache = cache_of(case.forward())
    first = case.step(cache, 4, 3).logits
    return [first, case.step(cache, 5).logits]


def _empties() -> bool:
    """Whether a reset empties a cache of this release, or leaves zeros in it."""
    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), 0)
    cache.reset()
    return cache.get_seq_length() == 0


@call()
def a_cache_that_was_reset(case: Case) -> Any:
    want, cache = case.forward(), DynamicCache(config=config_of(case))
    out = []
    for _ in range(2):
        out += [case.forward(**{CACHE: cache}).logits, case.step(cache).logits]
        cache.reset()
        if not _empties():
            break
    static = StaticCache(config=config_of(case), max_cache_len=case.length() + 4)
    for _ in range(2):
        out += [case.forward(**{CACHE: static}).logits]
        static.reset()
    return [want.logits, out]


@call()
def looking_into_a_cache(case: Case) -> Any:
    out = case.generate(return_dict_in_generate=True, batch=True, num_beams=2)
    cache = cache_of(case.forward())
    case.step(cache)
    seen = [(layer.keys, layer.values) for layer in cache.layers]
    beams = [layer.keys.shape for layer in cache_of(out).layers]
    whole = list(cache) if hasattr(cache, "__iter__") else seen
    return [seen, beams, cache.get_seq_length(), [part[:2] for part in whole]]


@call()
def looking_into_a_static_cache(case: Case) -> Any:
    cache = StaticCache(config=config_of(case), max_cache_len=case.length() + 6)
    case.forward(**{CACHE: cache})
    case.step(cache)
    return [(layer.keys, layer.values) for layer in cache.layers]


@call()
def two_caches_in_turns(case: Case) -> Any:
    first, other = cache_of(case.forward()), cache_of(case.forward())
    out = [case.step(cache, token).logits for token in (3, 8) for cache in (first, other, first)]
    return [*out, case.generate(), case.step(first).logits]


@call(refused={"keep_all": "past_key_values= of another request"})
def a_copy_of_a_prefix(case: Case) -> Any:
    """The recipe of transformers' documentation: a prefix is read once, and copied for every question."""
    prefix, outs = cache_of(case.forward()), []
    for token in (3, 8):
        cache = copy.deepcopy(prefix)
        outs += [case.step(cache, token, 2).logits, case.step(cache).logits]
    return outs


@call(refused={"keep_all": "rows of this cache cannot be repeated"})
def rows_of_a_cache_repeated(case: Case) -> Any:
    cache = cache_of(case.forward())
    cache.batch_repeat_interleave(2)
    step = {"input_ids": torch.tensor([[3], [4]]), CACHE: cache}
    first = case.model(**step).logits
    cache.batch_select_indices(torch.tensor([1]))
    return [first, case.step(cache).logits]
