"""Requests of one row as callers hold them: how long each is behind compression, and how several become a batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dycoke.bases import Before, KeepAll
from dycoke.families import family_of, supported
from dycoke.types import Plan

Request = Mapping[str, Any]


@dataclass(frozen=True)
class Length:
    """Tokens of a prompt that the language model will read: at least, and at most where they depend on the content."""

    least: int
    most: int

    def __add__(self, tokens: int) -> Length:
        return Length(self.least + tokens, self.most + tokens)


class Requests(Protocol):
    """Knows the requests of one model family.

    names: arguments of `generate` that belong to a row, all others being settings; context: tokens the model reads at
    most; per_frame: visual tokens of a frame before any is dropped; newline: where newlines stand in a video, as
    llava's `mm_newline_position`, None where a method need not know.
    """

    names: ClassVar[frozenset[str]]
    context: int
    per_frame: int
    newline: str | None

    def video(self, frames: int, before: Before) -> Length:
        """Tokens of a video with its newlines, behind a compressor."""
        ...

    def length(self, request: Request, before: Before) -> Length:
        """Tokens of a prompt. Raises ValueError for a request that is none, saying what is wrong with it."""
        ...

    def kind(self, request: Request) -> Hashable:
        """Requests of one kind can stand in one batch; None: this one stands alone."""
        ...

    def together(self, requests: Sequence[Request], pad: int) -> dict[str, Any]:
        """Arguments of `generate` for several requests of a kind, padded on the left with `pad`."""
        ...

    def new(self, out: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """The ids [B, n] that `generate(**inputs)` added, of what it returned."""
        ...


def requests_of(model: nn.Module) -> Requests:
    """The requests of a model's family. Raises ValueError naming the supported families."""
    family = family_of(model)
    if family is None or family.requests is None:
        raise ValueError(f"no videos can be given to {type(model).__name__}; supported: {supported('requests')}")
    return import_module(family.requests).REQUESTS(model)


def compressor_of(plan: Plan | None) -> Before:
    """What a plan does before the language model; one that keeps everything where it, or the plan, is None."""
    return KeepAll() if plan is None else plan.compressor


def kept(before: Before, frames: int, per_frame: int) -> Length:
    """Visual tokens a compressor leaves of T frames of N."""
    count = before.count(frames, per_frame)
    return Length(0, before.bound(frames, per_frame)) if count is None else Length(count, count)


def prompt_ids(request: Request, *names: str) -> Tensor:
    """The ids [L] of the one prompt of a request, under the first of the names it has, without its padding.

    Raises ValueError if there are none, or not of shape [1, L].
    """
    ids = next((request[name] for name in names if request.get(name) is not None), None)
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.shape[0] != 1:
        found = f"shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else f"{type(ids).__name__}"
        raise ValueError(f"{names[0]} is of {found}; expected ids [1, L] of one prompt")
    mask = request.get("attention_mask")
    return ids[0] if mask is None else ids[0][mask[0].bool()]


def padded(rows: Sequence[Tensor], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """ids and mask [B, L] int64 on `device` of ids [L] each, padded on the left."""
    masks = [torch.ones_like(row) for row in rows]
    pad_rows = torch.nn.utils.rnn.pad_sequence
    ids = pad_rows(list(rows), batch_first=True, padding_value=pad, padding_side="left").to(device)
    return ids, pad_rows(masks, batch_first=True, padding_value=0, padding_side="left").to(device)
