"""Visual tokens that leave are averaged into the one that stays and is most like them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def fold(hidden: Tensor, visual: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """hidden [B, S, D] at index [B, S'], each kept visual token the mean of itself and those that leave for it.

    visual [B, S] bool; mask [B, S'] bool: slots of index that are no padding. A visual token of a row that index does
    not name goes to the visual one it names with the highest cosine; of equals the lower. Where none stays nothing is
    averaged. Arithmetic is fp32; a token nothing goes to stays as it is, to the bit.
    """
    kept = hidden.take_along_dim(index[:, :, None], 1)
    stays = torch.zeros_like(visual).scatter_(1, index, mask)
    targets = visual.gather(1, index) & mask  # [B, S']
    unit = torch.nn.functional.normalize(hidden.float(), dim=2)
    likeness = unit @ unit.take_along_dim(index[:, :, None], 1).mT  # [B, S, S']
    nearest = likeness.masked_fill(~targets[:, None, :], -torch.inf).argmax(2, keepdim=True)
    goes = (visual & ~stays & targets.any(1, keepdim=True))[:, :, None]
    share = torch.zeros_like(likeness).scatter_(2, nearest, goes.float())  # one a row at most
    guests = share.sum(1)[:, :, None]  # [B, S', 1]
    mean = ((kept.float() + share.mT @ hidden.float()) / (guests + 1)).to(hidden.dtype)
    return torch.where(guests > 0, mean, kept)
