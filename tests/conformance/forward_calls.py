"""Single forward passes: batches, outputs, positions, embeddings and stray ids."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.conformance.call import HF, call
from tests.conformance.cases import CACHE, LENGTH, Case, cache_of


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
