"""A call that a model of transformers serves, and how one is entered in the table of all.

A call takes a `Case` and returns tensors, numbers, texts, or lists, tuples and dicts of those: what is to be the same
with a method on the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.conformance.cases import FAMILIES, Case

TEXT, HF = ("hf_video", "hf_picture", "llava"), ("hf_video", "hf_picture")
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
