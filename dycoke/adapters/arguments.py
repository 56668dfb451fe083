"""Arguments of a language model of transformers, as its hooks see them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CACHE_NAMES = ("cache", "past_key_values")  # transformers renamed the argument in 5.24; adapters use the older name


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


def real_tokens(mask: Tensor | dict[str, Tensor] | None, length: int) -> Tensor | None:
    """Which of the last call's `length` slots are no padding: bool [B, length], or None if nothing says so.

    mask: what a language model of transformers accepts: None, 2-D [B, S] (1 = real), 4-D [B, 1, S, keys] (bool or
    additive) or a dict of those, as a static cache brings. The last query of a 4-D mask sees exactly the real keys.
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if mask is None:
        return None
    if mask.ndim == 4:
        last = mask[:, 0, -1, :length]
        return last if last.dtype == torch.bool else last == 0
    return mask[:, :length].bool()
