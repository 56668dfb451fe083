"""What an attention mask says: which slots are padding, as transformers' own masks do, or more than that.

Prefill can be rewritten, and a cache be read by its index, only where attention is causal and hides nothing but
padding. A mask may say anything else: packed samples, a shared prefix, blocks that see each other, a window, a bias.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

HIDDEN = -1e4  # added to a score, it leaves a key no weight: exp(-1e4) is 0 in every dtype
_AT_ONCE = 2**24  # elements of a mask that are looked at together


class Told(NamedTuple):
    """What a prefill's mask says.

    real [B, S] bool: no padding, None if nothing is; own: the mask [., ., S, S] where it says more than padding.
    """

    real: Tensor | None
    own: Tensor | None


NOTHING = Told(None, None)


def read_mask(mask: Any, shape: tuple[int, int]) -> Told:
    """Read the mask of a prompt of shape (B, S), of any kind that a language model of transformers accepts.

    None, 2-D [B, S] (nonzero = real), 4-D [B or 1, H or 1, S, keys] (bool, or added to the scores), or a dict with one
    of those for layers of full attention. Reads the device for a 4-D mask. Raises ValueError for any other.
    """
    mask = full_attention(mask)
    if mask is None:
        return NOTHING
    if mask.ndim == 2:
        if tuple(mask.shape) != shape:
            raise ValueError(
                f"attention_mask of shape {tuple(mask.shape)} for a prompt of {shape[0]} rows and {shape[1]} tokens; "
                "expected one number for each of them (leave out prompt_lookup_num_tokens and assistant_model where "
                "their first step is handed no mask of its own)"
            )
        return Told(mask.bool(), None)
    real = padding_of(mask, shape)
    if real is not None:
        return Told(real, None)
    rows, _, queries, keys = mask.shape
    if rows not in (1, shape[0]) or queries not in (1, shape[1]) or keys < shape[1]:
        raise ValueError(
            f"attention_mask of shape {tuple(mask.shape)} for a prompt of {shape[0]} rows and {shape[1]} tokens; "
            "expected [B or 1, H or 1, S, keys]"
        )
    return Told(seen_slots(mask, shape), mask[..., : shape[1]])


def seen_slots(mask: Any, shape: tuple[int, int]) -> Tensor | None:
    """Which slots of a prompt of shape (B, S) any query sees: bool [B, S], or None if a mask does not say so."""
    mask = mask.get("full_attention") if isinstance(mask, dict) else mask
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        return None
    seen = mask[..., : shape[1]]
    if mask.ndim == 2:
        return seen.bool()
    seen = seen if seen.dtype == torch.bool else seen > HIDDEN
    return seen.flatten(1, 2).any(1).expand(shape[0], -1)


def full_attention(mask: Any) -> Tensor | None:
    """The mask of layers of full attention, 2-D or 4-D, or None. Raises ValueError for what is none."""
    if isinstance(mask, dict):
        if set(mask) != {"full_attention"}:
            raise ValueError(
                f"attention_mask with entries {', '.join(map(str, mask)) or 'for no layers'}: a method that drops or "
                "rewrites tokens accepts one for 'full_attention' alone"
            )
        mask = mask["full_attention"]
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim in (2, 4)):
        what = f"of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"of type {type(mask).__name__}"
        raise ValueError(
            f"attention_mask {what}: a method that drops or rewrites tokens accepts a tensor of 2 or 4 dimensions"
        )
    return mask


def padding_of(mask: Tensor, shape: tuple[int, int], before: int = 0) -> Tensor | None:
    """Which keys [B, before + S] a 4-D mask shows to queries [B, S] behind `before` others, if it is causal in them.

    mask [B or 1, H or 1, S, keys], bool or added to scores. None if it says anything else in any row or head. A query
    that is padding itself may see everything, which is how transformers marks one that sees nothing. Reads the device.
    """
    (rows, queries), keys = shape, mask.shape[3]
    if mask.shape[0] not in (1, rows) or mask.shape[2] != queries or keys < before + queries:
        return None
    if mask.dtype != torch.bool and not mask.is_floating_point():
        return None
    shown = _shows(mask[:, :1, -1:])
    padding = ~shown[:, :, 0, before : before + queries, None]
    key, query = (torch.arange(count, device=mask.device) for count in (keys, queries))
    odd = torch.zeros((), dtype=torch.bool, device=mask.device)
    step = max(1, _AT_ONCE // (mask.shape[0] * mask.shape[1] * keys))
    for first in range(0, queries, step):
        part = mask[:, :, first : first + step]
        seen, causal = _shows(part), key <= before + query[first : first + step, None]
        other = (seen != (causal & shown)) & ~(padding[:, :, first : first + step] & seen.all(-1, keepdim=True))
        odd |= other.any()
        if part.dtype != torch.bool:
            odd |= ~(seen | (part <= HIDDEN)).all()
    return None if bool(odd) else shown[:, 0, 0, : before + queries].expand(rows, -1)


def makes_cache(language_model: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether a call of a language model with these arguments has a cache to fill, given or made by it."""
    if kwargs.get("past_key_values") is not None:
        return True
    wanted = kwargs.get("use_cache")
    wanted = language_model.config.use_cache if wanted is None else wanted
    recomputes = language_model.training and getattr(language_model, "gradient_checkpointing", False)
    return bool(wanted) and not (recomputes and torch.is_grad_enabled())


def packed_samples(language_model: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether transformers takes a prefill's positions for those of several samples in a row. Reads the device.

    It looks for them where there is neither a mask nor a cache.
    """
    positions = kwargs.get("position_ids")
    if positions is None or kwargs.get("attention_mask") is not None or makes_cache(language_model, kwargs):
        return False
    return bool((positions.diff(dim=-1) != 1).any())


def refuse_own_mask(own: Tensor | None, what: str) -> None:
    """Raise ValueError for a mask of a prompt that says more than padding, under a method that does `what`."""
    if own is not None:
        raise ValueError(
            f"attention_mask of shape {tuple(own.shape)} that is not causal attention with padding (packed samples, a "
            f"shared prefix, a window, a bias): not accepted with a method that {what}; accepted: None, a mask [B, S] "
            "of padding, or the 4-D mask that transformers makes of one"
        )


def refuse_packed(what: str) -> None:
    """Raise ValueError for the positions of several samples in a row, under a method that does `what`."""
    raise ValueError(
        "position_ids of several samples packed in a row (they do not count up by 1): not accepted with a method that "
        f"{what}; accepted: a sample a row, or consecutive positions"
    )


def _shows(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask == 0
