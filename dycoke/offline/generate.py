"""Many requests through one model: sorted by length, in batches under a KV budget, answered in the order they came.

with dycoke.attach(model, dycoke.build("dycoke")):
    answers = generate_many(model, requests, max_new_tokens=64)
texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dycoke.attach import plan_of
from dycoke.bases import Before
from dycoke.families.requests import Request, Requests, compressor_of, requests_of
from dycoke.offline.answers import Generated, ending_ids
from dycoke.offline.batches import Halving, KVBudget, form

MAX_BATCH = 64
_NOT_HERE = ("max_length", "num_return_sequences", "return_dict_in_generate", "streamer", "generation_config")


@dataclass(frozen=True)
class _Row:
    """Row of a batch: the number of its request, what it can share a batch with, and the columns it needs at most."""

    number: int
    kind: Hashable
    columns: int


def generate_many(
    model: nn.Module,
    requests: Sequence[Request],
    *,
    kv_budget: int | None = None,
    max_batch: int = MAX_BATCH,
    progress: Callable[[int, int], None] | None = None,
    **generate_kwargs: Any,
) -> list[Tensor]:
    """The new ids [n] int64 of each request, on the CPU and in order, each up to the end of its answer.

    model: of our `llava` package or transformers' LLaVA-OneVision, with or without a method attached, and moved to its
    device. requests: what `model.generate` takes for one prompt each, as {"inputs": ids [1, L], "images": [pixels
    [T, 3, S, S]], "modalities": ["video"]} or what a processor returns; they may lie on the CPU. Each is looked at
    twice, so that a sequence may make them when it is asked. kv_budget: bytes the keys and values of a batch may take,
    a share of the GPU's memory if None (`KVBudget.of`). max_batch: rows of a batch at most. progress(done, all) is
    called behind each batch. Other arguments are those of `generate`, max_new_tokens among them; a request may have
    settings of its own, and those with the same ones stand together.

    Which requests stand together follows from their lengths, the longest first; greedy answers do not depend on it, up
    to the rounding of the dtype. A batch that runs out of GPU memory all the same is cut in two, with one warning.
    Raises ValueError, with the number of the request, for one that is wrong in itself, does not fit in the model's
    context or, alone, in the budget, before anything is generated (where it depends on what a video shows how many of
    its tokens a method keeps, when its batch is generated); and for arguments that do not fit together.
    """
    _check(max_batch, generate_kwargs)
    family, budget = requests_of(model), KVBudget.of(model, kv_budget)
    if family.names & set(generate_kwargs):
        own = ", ".join(sorted(family.names & set(generate_kwargs)))
        raise ValueError(f"{own}: expected in the requests, each of which has its own; not an argument of all")
    before = compressor_of(plan_of(model))
    rows = []
    for number, request in enumerate(requests):
        settings = generate_kwargs | _settings(family, request)
        try:
            rows.append(_row(model, family, budget, number, request, settings, before))
        except ValueError as error:
            raise ValueError(f"requests[{number}]: {error}") from error
    answers: list[Tensor] = [torch.empty(0, dtype=torch.long)] * len(rows)
    run = Halving(lambda part: len(part) * part[0].columns)
    done = 0
    for batch in _batches(rows, budget, max_batch):
        for part, new in run(batch, lambda part: _generate(model, family, requests, part, generate_kwargs)):
            for row, ids in zip(part, new, strict=True):
                answers[row.number] = ids
            done += len(part)
            if progress is not None:
                progress(done, len(rows))
    return answers


def _check(max_batch: int, settings: dict[str, Any]) -> None:
    if isinstance(max_batch, bool) or not isinstance(max_batch, int) or max_batch < 1:
        raise ValueError(f"max_batch={max_batch!r}: expected an integer of at least 1")
    wrong = [name for name in _NOT_HERE if settings.get(name) is not None]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)}: not available for many requests; accepted: max_new_tokens and settings of sampling"
        )


def _settings(family: Requests, request: Request) -> dict[str, Any]:
    """Settings in a request that are not of its row: arguments of `generate` for its batch."""
    return {name: value for name, value in request.items() if name not in family.names}


def _row(
    model: nn.Module,
    family: Requests,
    budget: KVBudget,
    number: int,
    request: Request,
    settings: dict[str, Any],
    before: Before,
) -> _Row:
    _check(1, settings)
    new = settings.get("max_new_tokens") or model.generation_config.max_new_tokens
    if not isinstance(new, int) or new < 1:
        raise ValueError(f"max_new_tokens={new!r}: expected an integer of at least 1")
    length = family.length(request, before)
    if length.least >= family.context:
        raise ValueError(f"a prompt of {length.least} tokens fills the {family.context} tokens the model reads")
    columns = (length.most + new) * (settings.get("num_beams") or 1)
    if not budget.rows(columns):
        raise ValueError(
            f"a prompt of up to {length.most} tokens and {new} new ones take {budget.bytes_of(columns)} bytes of keys "
            f"and values; kv_budget is {budget.total}"
        )
    kind = family.kind(request)
    own = sorted((name, repr(value)) for name, value in _settings(family, request).items())
    return _Row(number, (number,) if kind is None else (kind, *own), columns)


def _batches(rows: Sequence[_Row], budget: KVBudget, most: int) -> list[list[_Row]]:
    """Rows of one kind each, the longest first, and in their order where they are equal."""
    kinds: dict[Hashable, list[_Row]] = {}
    for row in sorted(rows, key=lambda row: -row.columns):
        kinds.setdefault(row.kind, []).append(row)
    return [group[part] for group in kinds.values() for part in form([row.columns for row in group], budget, most)]


def _generate(
    model: nn.Module, family: Requests, requests: Sequence[Request], part: Sequence[_Row], settings: dict[str, Any]
) -> list[Tensor]:
    """The new ids of each row of one batch."""
    asked = [requests[row.number] for row in part]
    settings = settings | _settings(family, asked[0])
    ends = ending_ids(model, settings.get("eos_token_id"))
    pads = (settings.get("pad_token_id"), model.generation_config.pad_token_id, *sorted(ends), 0)
    pad = next(each for each in pads if each is not None)
    inputs = family.together(asked, pad)
    try:
        out = model.generate(**inputs, **{**settings, "pad_token_id": pad})
    except ValueError as error:  # as of a prompt that a method has left too long
        raise ValueError(f"requests[{', '.join(str(row.number) for row in part)}]: {error}") from error
    return Generated(family.new(out, inputs), ends, pad).rows()
