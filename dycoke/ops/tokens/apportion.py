"""Sharing one exact budget among frames, without reading anything back to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dycoke.ops.tokens.rank import ranks

if TYPE_CHECKING:
    from torch import Tensor


def apportion(order_score: Tensor, target: Tensor, total: int) -> Tensor:
    """Which `total` tokens stay, as a mask [T, N] bool, shared among the frames in proportion to `target`.

    order_score [T, N]: within a frame, lower is kept first. target [T] > 0: the tokens each frame would keep if
    there were fractions of them; only the proportions count. The token of rank r (from 0) in frame t stands in line
    at (r + 1/2) / target[t], and the first `total` are taken. That is the divisor method of Sainte-Laguë: where the
    rounded targets add up to `total` they are the quotas, and what a full frame cannot take goes to the others. If
    `total` reaches T, no frame is left empty. Ties go to the lower slot. Raises ValueError unless 0 <= total <= T * N.
    """
    frames, per_frame = order_score.shape
    if not 0 <= total <= frames * per_frame:
        raise ValueError(f"total={total}: expected 0 to {frames * per_frame} tokens of {frames} frames of {per_frame}")
    rank = ranks(-order_score)
    queue = (rank + 0.5) / target[:, None]
    if total >= frames:
        queue = queue.masked_fill(rank == 0, -1.0)
    taken = queue.flatten().argsort(stable=True)[:total]
    mask = torch.zeros(frames * per_frame, dtype=torch.bool, device=order_score.device)
    return mask.index_fill_(0, taken, True).view(frames, per_frame)
