"""Arguments of a language model of transformers, as its hooks see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dycoke.turns import NOT_ONE_GRAPH, Attached

CACHE_NAMES = ("cache", "past_key_values")  # transformers renamed the argument in 5.24; adapters use the older name

ANOTHER_REQUEST = (
    "past_key_values= of another request: pass the whole prompt and a fresh cache (guidance_scale, and assistant_model "
    "where it is the model itself, let two requests take turns, which this method cannot follow)"
)

_AT_ONCE = 1024  # rows of a table that are looked at together
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Uncompiled(Attached):
    """A hook as torch.compile is to see it: called between two graphs, and refused by its reason in a single one."""

    def __init__(self, hook: Callable) -> None:
        self._hook = torch.compiler.disable(hook, reason=NOT_ONE_GRAPH)

    def __call__(self, *args: Any) -> Any:
        return self._hook(*args)


def refuse_full_length(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise ValueError for arguments that name slots of the whole sequence: they mean nothing once it is shorter."""
    if kwargs.get("labels") is not None:
        raise ValueError("labels=: not accepted while a method shortens the sequence; use the logits")
    if isinstance(kwargs.get("logits_to_keep"), Tensor):
        raise ValueError("logits_to_keep=: a tensor of slots is not accepted while a method is attached; pass an int")


def renamed(kwargs: dict[str, Any], name: str) -> dict[str, Any]:
    """Keyword arguments of a model with its cache, where there is one, under this one of `CACHE_NAMES`."""
    return {name if key in CACHE_NAMES else key: value for key, value in kwargs.items()}


def expand_rows(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """A mask of slots, or numbers of theirs, [B, S], for the n * B rows of beams or return sequences.

    Raises ValueError if it does not fit them.
    """
    rows, length = shape
    if mask.shape[1] != length or rows % mask.shape[0]:
        raise ValueError(
            f"visual mask of shape {tuple(mask.shape)} for a prompt of {rows} rows and {length} tokens: the mask names "
            "the slots of whole prompts, read in one piece (no prefill_chunk_size, no prompt_lookup_num_tokens, "
            "assistant_model or guidance_scale)"
        )
    return mask.repeat_interleave(rows // mask.shape[0], dim=0)


def tokens_of(kwargs: dict[str, Any]) -> Tensor:
    """What the language model reads, ids [B, S] or embeddings [B, S, D]."""
    embeds = kwargs.get("inputs_embeds")
    return kwargs["input_ids"] if embeds is None else embeds


def shape_of(kwargs: dict[str, Any]) -> tuple[int, int]:
    """Rows and slots (B, S) of what it reads."""
    return tuple(tokens_of(kwargs).shape[:2])


def from_table(embeds: Tensor, table: Tensor, real: Tensor | None) -> bool:
    """Whether embeddings [B, S, D], where real [B, S] bool, are all rows of a table [V, D]: those of ids, then.

    By their bits, which are summed up with odd weights: what differs in any element differs in the sum, but for one
    chance in 2^63. Reads the device.
    """
    if embeds.dtype != table.dtype or embeds.shape[-1] != table.shape[1]:
        return False
    embeds = embeds.flatten(0, 1) if real is None else embeds[real.to(embeds.device)]
    known = torch.cat([_digest(part) for part in table.detach().split(_AT_ONCE)])
    return bool(torch.isin(_digest(embeds.detach()), known.to(embeds.device)).all())


def _digest(rows: Tensor) -> Tensor:
    """A number [R] int64 of the bits of rows [R, D]."""
    bits = rows.contiguous().view(_BITS[rows.itemsize]).long()
    weights = torch.randint(2**62, (rows.shape[1],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    return (bits * weights.to(rows.device)).sum(1)
