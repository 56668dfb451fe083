"""`diverse.farthest_torch` as one Triton program a frame: the rounds run inside it, one launch for all."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def farthest_triton(weighted: Tensor, first: Tensor, count: int) -> Tensor:
    """Same as `farthest_torch`."""
    frames, per_frame, _ = weighted.shape
    chosen = torch.empty(frames, per_frame, dtype=torch.bool, device=weighted.device)
    block = triton.next_power_of_2(per_frame)
    _farthest[(frames,)](weighted.contiguous(), first, chosen, per_frame, count - 1, block, num_warps=4)
    return chosen


@triton.jit(do_not_specialize=["rounds"])
def _farthest(weighted, first, chosen, per_frame, rounds, block: tl.constexpr):
    frame = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, block)
    inside = place < per_frame
    rows = weighted + frame * per_frame * per_frame
    nothing = float("-inf")  # neither what is chosen nor what lies past the end is chosen again
    least = tl.load(rows + tl.load(first + frame) * per_frame + place, mask=inside, other=nothing)
    for _ in range(rounds):
        pick = tl.argmax(least, 0)
        least = tl.minimum(least, tl.load(rows + pick * per_frame + place, mask=inside, other=nothing))
    tl.store(chosen + frame * per_frame + place, least == nothing, mask=inside)
