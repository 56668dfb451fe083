"""Which slots go on into a layer that drops visual tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from dycoke.ops.attend.choose import top_columns

if TYPE_CHECKING:
    from torch import Tensor


def strongest(
    scores: Tensor, visual: Tensor, count: Callable[[int], int], entered: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Slots that go on if each row keeps its `count(n)` highest scored of n visual tokens: index, mask [B, S'].

    scores [B, S] fp32, visual [B, S] bool; ties go to the lower slot. entered [B] int64: numbers that `count` is told
    in place of n, which stays the most that go on. Reads the device once: row lengths decide S'.
    """
    found = visual.sum(1)
    told = found if entered is None else entered.to(found.device)
    found, told = torch.stack([found, told]).tolist()
    kept = [min(here, count(number)) for here, number in zip(found, told, strict=True)]
    if kept == found:
        return whole(visual)
    budget = torch.tensor(kept, dtype=torch.int32, device=scores.device)
    width = max(kept)
    chosen = top_columns(scores, visual, budget, width) if width else visual.new_zeros(len(kept), 0, dtype=torch.int64)
    dropped = min(before - after for before, after in zip(found, kept, strict=True))
    return going_on(visual, marked(chosen, visual.shape[1]), visual.shape[1] - dropped)


def marked(columns: Tensor, width: int) -> Tensor:
    """Columns [B, W] int64, -1 padded, as a mask [B, width] bool."""
    # One column more than there are takes what is padded.
    mask = torch.zeros(columns.shape[0], width + 1, dtype=torch.bool, device=columns.device)
    return mask.scatter_(1, torch.where(columns < 0, width, columns), True)[:, :width]


def going_on(visual: Tensor, chosen: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Slots that are no visual token or are chosen: ascending index [B, width] int64 and mask [B, width] bool.

    visual, chosen [B, S] bool; width: the most such slots of a row. Rows with fewer begin with dropped slots, masked,
    so that every row still ends where it did.
    """
    stays = chosen | ~visual
    index = stays.int().argsort(dim=1, stable=True)[:, stays.shape[1] - width :]
    return index, stays.gather(1, index)


def whole(visual: Tensor) -> tuple[Tensor, Tensor]:
    """Every slot of visual [B, S] goes on."""
    index = torch.arange(visual.shape[1], device=visual.device).expand(visual.shape)
    return index, torch.ones_like(visual)
