"""The parity part: our engine against stock, on the same forced tokens, and token by token on a small model in fp32."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

import dycoke
from dycoke.bench.decode.check import check_agree
from dycoke.bench.engine.model import Request, build_llava, make_request, share_llava
from dycoke.bench.engine.setting import FULL, OURS, STOCK_SDPA, Setting
from dycoke.bench.engine.versions import Subject, Subjects

Forced = Callable[[Tensor], Tensor]  # ids [n] of an answer -> the logits [n, vocabulary] ahead of each of them
STEPS = 16
SMALL_FRAMES = 8


def measure_parity(subjects: Subjects, setting: Setting, request: Request) -> dict[str, Any]:
    """How far the logits of `full` in our engine are from stock ones, and whether our tokens are those of stock loops.

    Raises RuntimeError for logits further apart than rounding explains, and for a differing token in fp32.
    """
    stock, told = subjects[STOCK_SDPA], {}
    if FULL in setting.versions:
        ids = stock.generate(request, STEPS)[0]
        told["logits"] = compare(
            lambda ids: forced_by_generate(stock, request, ids),
            lambda ids: forced_by_generate(subjects[FULL], request, ids),
            ids,
            setting.torch_dtype,
        )
    device = stock.model.lm_head.weight.device.type
    small = replace(setting, shape="tiny" if device == "cpu" else "small", dtype="float32", device_map="none")
    model = build_llava(small, device)
    ours = [name for name in setting.versions if name.startswith(OURS)]
    return told | {"tokens": [same_tokens(model, small, name) for name in ours]}


def compare(stock: Forced, ours: Forced, ids: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """Differences of two models' logits on the same ids [n], by step, and how often their likeliest token is the same.

    Raises RuntimeError if they are further apart than rounding in `dtype` explains.
    """
    expected, got = stock(ids).float(), ours(ids).float()
    if got.shape != expected.shape:
        raise RuntimeError(f"logits {tuple(got.shape)} where the stock model has {tuple(expected.shape)}")
    difference = (got - expected).abs()
    same = got.argmax(-1) == expected.argmax(-1)
    return {
        "steps": len(ids),
        "dtype": str(dtype),
        "max_by_step": difference.amax(-1).tolist(),
        "mean_by_step": difference.mean(-1).tolist(),
        "top1_same": same.tolist(),
        "top1_agreement": same.float().mean().item(),
        "apart": check_agree(expected, got, dtype),
    }


class Forcing(LogitsProcessor):
    """Lets an answer be these ids [n], whatever the logits, and keeps the logits [V] ahead of each."""

    def __init__(self, ids: Tensor) -> None:
        self._ids, self.logits = ids, []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        number = len(self.logits)
        self.logits.append(scores[0].clone())
        forced = torch.full_like(scores, -torch.inf)
        if number < len(self._ids):  # a loop that runs ahead asks for one token more
            forced[:, self._ids[number]] = 0
        return forced


def forced_by_generate(subject: Subject, request: Request, ids: Tensor) -> Tensor:
    """Logits [n, vocabulary] ahead of each of the ids [n], out of the loop that the version answers by."""
    forcing = Forcing(ids)
    answer = subject.generate(request, len(ids), logits_processor=LogitsProcessorList([forcing]))
    if not torch.equal(answer[0], ids):
        raise RuntimeError(f"{subject.name}: answers {answer[0].tolist()} where {ids.tolist()} was forced")
    return torch.stack(forcing.logits[: len(ids)])


def same_tokens(model: nn.Module, setting: Setting, name: str) -> dict[str, Any]:
    """Whether a version of ours answers with the tokens of the stock loop under its method, or of stock for `full`.

    Raises RuntimeError if it does not.
    """
    request = make_request(model, setting, SMALL_FRAMES)
    with ExitStack() as undo:
        ours = Subject(name, share_llava(model, "sdpa"), setting, undo)
        answer = ours.generate(request, STEPS)[0].tolist()
    with ExitStack() as undo:
        other = share_llava(model, "sdpa")
        if name != FULL:
            undo.enter_context(dycoke.attach(other, setting.method(name), engine="off"))
        out = other.generate(**request.inputs, max_new_tokens=STEPS, do_sample=False)
    expected = out[0, request.length :].tolist()
    if answer != expected:
        raise RuntimeError(f"{name}: answers {answer} in fp32 where the stock loop answers {expected}")
    return {"version": name, "steps": STEPS, "loop": ours.loop, "answer": answer}
