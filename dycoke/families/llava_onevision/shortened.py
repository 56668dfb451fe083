"""What a prefill did to its rows, and the arguments of the steps behind it: their caller counts the slots of before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dycoke.stages.masks import full_attention, padding_of


@dataclass
class Shortened:
    """Rows of `before` slots of which `after` columns are left; lives as long as their cache.

    source [B, after] int64: the slot of each column, -1 at padding that was made. real [B, before] bool: no padding,
    None if there is none. mask [B, after] int64: columns that are none, None where no mask is needed. shift [B, 1] by
    how much the positions of decoded tokens move back.
    """

    before: int
    after: int
    source: Tensor
    real: Tensor | None
    mask: Tensor | None
    shift: Tensor
    decoded: int = 0

    def step(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a step [B, n]: mask and positions moved to the shortened rows.

        Raises ValueError if the step does not go on where the rows end, their number has changed, or its 4-D mask
        hides anything but the padding of the prompt.
        """
        embeds = kwargs["inputs_embeds"]
        new, rows = embeds.shape[1], len(embeds)
        if rows != len(self.source):
            raise ValueError(
                f"a step of {rows} rows on a cache of {len(self.source)}: rows that were repeated or selected in the "
                "cache are not followed; pass the whole prompt and a fresh cache"
            )
        length = kwargs["past_key_values"].get_seq_length()
        # A growing cache knows its length, also after tokens were taken back; a static one would have to be asked on
        # the device, and grows by what it was given.
        decoded = length - self.after if isinstance(length, int) else self.decoded
        end = self.before + decoded + new
        mask, given = full_attention(kwargs.get("attention_mask")), kwargs.get("position_ids")
        if mask is not None and mask.ndim == 2:
            self._check_end(mask.shape[1], decoded, new)
        elif new > 1 and given is not None and self.mask is None:
            self._check_end(int(given.max()) + 1, decoded, new)
        self.decoded = decoded + new
        if given is None:
            given = torch.arange(end - new, end, device=embeds.device)[None]
        return {**kwargs, "attention_mask": self._mask(mask, decoded, (rows, new)), "position_ids": given - self.shift}

    def _check_end(self, seen: int, decoded: int, new: int) -> None:
        if seen != self.before + decoded + new:
            raise ValueError(
                f"the cache holds a prompt of {self.before} slots shortened to {self.after} and {decoded} decoded "
                f"tokens, and cannot be continued to slot {seen} with {new} more; pass the whole prompt without "
                "past_key_values"
            )

    def _mask(self, given: Tensor | None, decoded: int, shape: tuple[int, int]) -> Tensor | None:
        """The mask of the columns that are left, for a step of shape (B, n); None where it hides nothing."""
        # Fewer than none are decoded where guesses were read along with the prompt and then taken back.
        kept = self.after + min(decoded, 0)
        if given is not None and given.ndim == 2:
            given = given.to(self.source.device).bool()
            prompt = given.gather(1, self.source[:, :kept].clamp(min=0)) & (self.source[:, :kept] >= 0)
            mask = torch.cat([prompt, given[:, self.before + min(decoded, 0) :]], dim=1)
            return None if self.mask is None and bool(mask.all()) else mask.long()
        if given is not None:
            self._check_shown(given, decoded, shape)
        if self.mask is None:
            return None
        made = self.mask.new_ones(shape[0], max(decoded, 0) + shape[1])
        made = made if decoded >= 0 else made[:, : shape[1]]
        return torch.cat([self.mask[:, :kept], made], dim=1)

    def _check_shown(self, given: Tensor, decoded: int, shape: tuple[int, int]) -> None:
        """Raise ValueError for a 4-D mask that is not causal with the prompt's padding.

        Its keys are the slots of before, or, as transformers makes it for a static cache, as many of them as that
        cache has columns.
        """
        padded = given.new_ones(shape[0], self.before, dtype=torch.bool) if self.real is None else self.real
        known = torch.nn.functional.pad(padded.to(given.device), (0, decoded + shape[1]), value=True)
        for before in (self.before + decoded, self.after + decoded):
            shown = padding_of(given, shape, before)
            if shown is not None and torch.equal(shown, known[:, : before + shape[1]]):
                return
        raise ValueError(
            f"attention_mask of shape {tuple(given.shape)} in a decode step hides more than the padding of the prompt, "
            "whose rows a method has shortened; accepted: None, a mask [B, slots], or the 4-D mask of one"
        )
