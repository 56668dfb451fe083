"""Calls that a model of transformers serves, written once: each returns what is to be the same with a method on it.

A call takes a `Case` and returns tensors, numbers, texts, or lists, tuples and dicts of those.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
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

from tests.conformance.cases import CACHE, FAMILIES, LENGTH, Case, cache_of

TEXT, BARE, HF = ("hf_video", "hf_picture", "llava"), ("qwen2", "llama"), ("hf_video", "hf_picture")
ONE_OF_EACH = ("hf_video", "llava", "qwen2")


@dataclass(frozen=True)
class Call:
    """run: the call. families: those it is made of. refused: by method, words of its refusal where it is refused.

    changes: the model is not the same afterwards. tolerance: how far numbers may differ. engine: in the engine as well.
    may: some releases of transformers never come to what is refused.
    """

    run: Callable[[Case], Any]
    families: tuple[str, ...] = FAMILIES
    refused: dict[str, str] = field(default_factory=dict)
    changes: bool = False
    tolerance: float = 2e-5
    engine: bool = False
    may: bool = False


CALLS: dict[str, Call] = {}


def call(**options: Any) -> Callable[[Callable[[Case], Any]], Callable[[Case], Any]]:
    def enter(run: Callable[[Case], Any]) -> Callable[[Case], Any]:
        CALLS[run.__name__] = Call(run, **options)
        return run

    return enter


def generating(
    name: str, batch: bool = False, families: tuple[str, ...] = ("hf_video", "llava", "qwen2"), **options: Any
) -> None:
    """A call of generate with these arguments, in the engine as well."""

    def run(case: Case) -> Any:
        torch.manual_seed(3)
        return case.generate(batch, **options)

    CALLS[name.replace(" ", "_")] = Call(run, families, engine=True)


def config_of(case: Case) -> Any:
    return case.model.config.get_text_config()


# Generating.
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


# One call.
def _all(output: Any) -> list[Any]:
    return [output.logits, output.loss, output.hidden_states, cache_of(output) is not None]


@call()
def one_call(case: Case) -> Any:
    return [_all(case.forward()), _all(case.forward(output_hidden_states=True)), _all(case.forward(use_cache=False))]


@call()
def a_batch(case: Case) -> Any:
    return case.model(**case.batch).logits


@call()
def a_batch_padded_on_the_right(case: Case) -> Any:
    if case.family == "llava":
        return case.model(**case.batch).logits
    inputs = dict(case.batch)
    real = inputs["attention_mask"].bool()
    rows = [row[keep] for row, keep in zip(inputs["input_ids"], real, strict=True)]
    inputs["input_ids"] = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    inputs["attention_mask"] = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return case.model(**inputs).logits[inputs["attention_mask"].bool()]


@call()
def as_a_tuple(case: Case) -> Any:
    return [part for part in case.forward(return_dict=False) if isinstance(part, torch.Tensor)]


@call()
def the_base_model_as_a_tuple(case: Case) -> Any:
    """The module below the head, with and without a cache."""
    ids = torch.arange(5, 5 + LENGTH)[None]
    first = case.language_model(input_ids=ids, return_dict=False)
    step = case.language_model(input_ids=ids[:, :1], **{CACHE: first[1]}, return_dict=False)
    bare = case.language_model(input_ids=ids, return_dict=False, use_cache=False)
    return [first[0], step[0], bare, case.language_model(input_ids=ids, output_hidden_states=True).hidden_states]


@call()
def logits_to_keep(case: Case) -> Any:
    slots = torch.tensor([1, 3])
    return [case.forward(logits_to_keep=2).logits, case.forward(logits_to_keep=slots).logits]


@call()
def given_positions(case: Case) -> Any:
    positions = torch.arange(case.length())[None]
    moved = torch.cat([positions[:, :4], positions[:, 4:] + 5], dim=1)
    return [case.model(**case.open(), position_ids=each).logits for each in (positions, positions + 3, moved)]


@call()
def embeddings(case: Case) -> Any:
    """Of text: nothing visual is to be found in them. Beside the ids, generate takes them for the prompt."""
    ids = torch.arange(5, 5 + LENGTH)[None]
    embeds = case.model.get_input_embeddings()(ids)
    outs = [case.model(inputs_embeds=embeds).logits, case.language_model(inputs_embeds=embeds)[0]]
    if case.family != "llava":  # whose generate takes none
        options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        outs += [case.model.generate(inputs_embeds=embeds, **options)]
        outs += [case.model.generate(input_ids=ids, inputs_embeds=embeds, **options)]
    return outs


@call(families=HF)
def embeddings_with_pixels(case: Case) -> Any:
    inputs = dict(case.inputs)
    inputs["inputs_embeds"] = case.model.get_input_embeddings()(inputs.pop("input_ids"))
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return [case.model(**inputs).logits, case.model.generate(**inputs, **options)]


@call(refused={"keep_all": "inputs_embeds=: a method needs input_ids"}, families=("hf_video", "llava"))
def embeddings_of_nothing(case: Case) -> Any:
    width = case.model.get_input_embeddings().embedding_dim
    return case.model(inputs_embeds=torch.randn(1, 6, width, generator=torch.Generator().manual_seed(0))).logits


@call(families=HF)
def stray_visual_ids(case: Case) -> Any:
    """A tokenizer's ids may be any."""
    ids = torch.tensor([[5, 60, 7, 61, 60, 60, 9, 60]])
    out = [case.model(input_ids=ids).logits, case.model.generate(ids, max_new_tokens=2, do_sample=False)]
    other = 61 if case.family == "hf_video" else 60
    mixed = dict(case.inputs)
    mixed["input_ids"] = torch.cat([torch.tensor([[other, 5, other]]), mixed["input_ids"]], dim=1)
    mixed["attention_mask"] = torch.ones_like(mixed["input_ids"])
    return [*out, case.model(**mixed).logits]


# Caches.
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


# Losses and gradients.
def _labels(case: Case) -> torch.Tensor:
    labels = case.inputs["input_ids"].clone()
    return labels.masked_fill(labels < 0, 7) if case.family == "llava" else labels


def _gradients(case: Case, **options: Any) -> Any:
    case.model.zero_grad()
    out = case.forward(labels=_labels(case), **options)
    out.loss.backward()
    grads = {name: p.grad.clone() for name, p in case.model.named_parameters() if p.grad is not None}
    case.model.zero_grad()
    return [out.loss.detach(), out.logits.detach(), dict(sorted(grads.items()))]


@call()
def labels(case: Case) -> Any:
    return _gradients(case)


@call(changes=True, families=ONE_OF_EACH)
def training(case: Case) -> Any:
    case.model.train()
    plain = _gradients(case)
    case.model.gradient_checkpointing_enable()
    return [plain, _gradients(case)]


# Other numbers and devices of a model.
@call(changes=True, tolerance=0.1, families=ONE_OF_EACH)
def in_bfloat16(case: Case) -> Any:
    case.model.bfloat16()
    return [case.forward().logits.float(), case.step(cache_of(case.forward())).logits.float()]


@call(changes=True, tolerance=0.02, families=ONE_OF_EACH)
def in_half(case: Case) -> Any:
    case.model.half()
    return case.forward().logits.float()


@call(tolerance=0.1, families=ONE_OF_EACH)
def under_autocast(case: Case) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return case.forward().logits.float()


@call()
def in_inference_mode(case: Case) -> Any:
    with torch.inference_mode():
        cache = cache_of(case.forward())
        return [case.step(cache).logits.clone()]


@call(changes=True, families=ONE_OF_EACH)
def other_sizes_of_the_vocabulary(case: Case) -> Any:
    size, out = case.model.get_input_embeddings().num_embeddings, []
    for new in (size + 3, size):
        torch.manual_seed(0)
        case.model.resize_token_embeddings(new, mean_resizing=False)
        out.append(case.forward().logits[..., :size])
    case.model.tie_weights()
    return out


@call(families=ONE_OF_EACH)
def saved_and_loaded(case: Case) -> Any:
    """Nothing of the method goes into a checkpoint."""
    with TemporaryDirectory() as folder:
        case.model.save_pretrained(folder)
        files = {path.name: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
        again = type(case.model).from_pretrained(folder).eval()
    return [files, sorted(case.model.state_dict()), again(**case.inputs).logits, str(case.model.generation_config)]


@call()
def what_a_config_says(case: Case) -> Any:
    own = case.model.config
    parts = [own, own.get_text_config(), case.language_model.config]
    return [[each._attn_implementation for each in parts], own.to_json_string(), copy.deepcopy(own).to_dict()]


@call()
def hooks_of_a_user(case: Case) -> Any:
    seen = []
    handles = [
        layer.register_forward_hook(lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for layer in case.language_model.layers
    ]
    case.forward()
    case.generate()
    for handle in handles:
        handle.remove()
    return seen[: len(case.language_model.layers)]


@call(changes=True, families=("qwen2",))
def adapters_of_weights(case: Case) -> Any:
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    peft.inject_adapter_in_model(config, case.model)
    return [case.forward().logits, case.generate()]


# What is refused while the cache is pruned, and only then.
@call(refused={"keep_all": "attn_implementation='eager' was set"}, changes=True, families=ONE_OF_EACH)
def attention_maps(case: Case) -> Any:
    case.model.set_attn_implementation("eager")
    return case.forward(output_attentions=True).attentions


@call(families=("qwen2",))
def printed(case: Case) -> Any:
    said = io.StringIO()
    print(case.model, file=said)
    return said.getvalue()
