"""DyCoke with one budget for the whole video: windows as long as their content, our own, building on DyCoke 3.2.

The timeline of every place is cut into windows at equal steps of accumulated change, one step for the whole video, and
one token stands for each window. A static clip gets few windows, a cut one in every place, or in as many places as the
budget pays for. Nothing is read back to the host, nothing is scattered or added atomically, so that runs repeat, and
as many tokens come out as were asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dycoke import budget
from dycoke.bases import Before
from dycoke.registry import register
from dycoke.types import Compressed, Positions, VisualTokens

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-12
_ONE = 1 << 24  # fixed point: sums of integers are the same on every device, in whatever order they are taken
_REST = 0.01  # of change, added to every token: where nothing changes, a token still returns now and then
_REACH = 0.32  # of accumulated change, to either side of a kept token: the cosine with it is at least 1 - 0.32^2 = 0.9
# The plastic number's lattice: any run of neighbouring places has its phases spread over a whole step.
_ROW, _COLUMN = 0.7548776662466927, 0.5698402909980532


@register(
    "dycoke_adaptive",
    source="ours, building on DyCoke, section 3.2",
    retention="keep",
    official="ours: keep=0.25, the least that DyCoke's own windows can leave",
)
@dataclass(frozen=True)
class DyCokeAdaptive(Before):
    """Cut each place's timeline at equal steps of change, one step for the video; keep the mean of each window.

    Where DyCoke's windows are four frames long and a share K of every compared frame is dropped, here a window is as
    long as its content lasts, and `keep` alone says how many there are: from_keep(keep, T * N), whatever the content.
    A kept token stands for the tokens of its place that resemble it, and is their mean. Works from one frame on.
    """

    keep: float = field(default=0.25, metadata={"help": "share of the visual tokens kept, in (0, 1]"})
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})

    def __post_init__(self) -> None:
        super().__post_init__()
        budget.check_ratio("keep", self.keep, above_zero=True)

    def compress(self, video: VisualTokens) -> Compressed:
        frames, per_frame, _ = video.embeds.shape
        return Compressed(*adaptive_merge(video.embeds, video.grid, self.count(frames, per_frame)))

    def count(self, frames: int, per_frame: int) -> int:
        return budget.from_keep(self.keep, frames * per_frame)


def adaptive_merge(embeds: Tensor, grid: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
    """`count` merged tokens [count, D] and their slots [count] int64, ascending, of frames [T, N, D] of a grid.

    `novelty` says how much each token changes, `crossings` picks the tokens by it, `windows` says what each of them
    stands for, and `window_means` averages that. Raises ValueError unless 1 <= count <= T * N.
    """
    frames, per_frame, _ = embeds.shape
    if not 1 <= count <= frames * per_frame:
        raise ValueError(f"count={count}: expected 1 to {frames * per_frame} tokens")
    if count == frames * per_frame:
        return embeds.flatten(0, 1), torch.arange(count, device=embeds.device)
    tokens = embeds.float()
    change = (novelty(tokens) * _ONE).long().T.contiguous()  # [N, T]
    kept = crossings(change + int(_REST * _ONE), _phases(grid, embeds.device), count)
    index, start, size = windows(change, kept)
    mean = window_means(tokens, index, start, size).to(embeds.dtype)
    # A window of one is the token itself, bit for bit.
    return torch.where((size == 1)[:, None], embeds.flatten(0, 1)[index], mean), index


def novelty(tokens: Tensor) -> Tensor:
    """How far each token has moved in a frame: [T, N, D] fp32 -> [T, N] fp32, sqrt(1 - cosine) in [0, sqrt(2)].

    Against the same place one frame earlier; in the first frame against the place before, and 1 for the very first.
    A distance, so that its sum along a timeline bounds how far any two tokens are apart. NaN counts as no change, and
    so do two tokens of nothing but zeros.
    """
    length = tokens.norm(dim=-1)
    first = _cosine(tokens[:1, 1:], tokens[:1, :-1], length[:1, 1:] * length[:1, :-1])
    first = torch.nn.functional.pad(first, (1, 0))
    cosine = torch.cat([first, _cosine(tokens[1:], tokens[:-1], length[1:] * length[:-1])])
    dark = length == 0
    both = dark & torch.cat([torch.nn.functional.pad(dark[:1, :-1], (1, 0)), dark[:-1]])
    return (1 - cosine).clamp_min(0.0).sqrt().nan_to_num(0.0).masked_fill(both, 0.0)


def crossings(weight: Tensor, phase: Tensor, count: int) -> Tensor:
    """Which `count` tokens begin a step: weight [N, T] int64 > 0 -> flat indices n * T + t [count] int64, ascending.

    Along the timeline of place n steps begin at (i - phase[n]) * step of accumulated weight; phase [N] fp64 in [0, 1).
    A weight over `step` counts as one step, and `step` solves sum(min(weight, step)) = count * step: over all phases
    `count` tokens cross on average. The few too many or too few are settled by how near to a crossing a token comes.
    """
    ranked = weight.flatten().sort(descending=True).values
    rest = weight.sum() - (ranked.cumsum(0) - ranked)[:count]
    step = (rest // torch.arange(count, 0, -1, device=weight.device)).min()  # the minimum over how many count as one
    share = torch.minimum(weight, step)
    passed = share.cumsum(1) - share + (phase * step).long()[:, None]
    ahead = (step - passed % step).double() / share  # at most 1 where the token reaches the next step
    ahead = ahead.where(share < step, 0.0)  # a whole step is never what gives way
    return ahead.flatten().argsort(stable=True)[:count].sort().values


def windows(change: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slot t * N + n, first frame and number of frames of each kept token's window, each [M], by ascending slot.

    change [N, T] int64; kept [M] as `crossings` gives it. A dropped token belongs to the kept token of its place with
    the least change between them, the earlier one if equal, and to none where that is more than the reach.
    """
    places, frames = change.shape
    travel = change + 1  # so that of two tokens without a change between them the nearer one counts
    travel[:, 0] = 4 * frames * _ONE  # further than any timeline is long: no window goes on in the next place
    travel = travel.flatten().cumsum(0)
    own, reach = travel[kept], int(_REACH * _ONE)
    # Where half of the change between two kept tokens is exceeded, the later one's window begins.
    border = torch.searchsorted(travel, (own[1:] + own[:-1]) // 2, right=True)
    start, end = torch.searchsorted(travel, own - reach), torch.searchsorted(travel, own + reach, right=True)
    start[1:], end[:-1] = torch.maximum(start[1:], border), torch.minimum(end[:-1], border)
    index, order = (kept % frames * places + kept // frames).sort()
    return index, (start % frames)[order], (end - start)[order]


def window_means(tokens: Tensor, index: Tensor, start: Tensor, size: Tensor) -> Tensor:
    """Mean [M, D] of the `size` frames from `start` on at the places of the slots `index`; tokens [T, N, D] fp32."""
    places = tokens.shape[1]
    place = index % places
    sums = tokens.cumsum(0).flatten(0, 1)
    before = sums[(start - 1).clamp_min(0) * places + place]
    return (sums[(start + size - 1) * places + place] - before.where((start > 0)[:, None], 0.0)) / size[:, None]


def _cosine(tokens: Tensor, reference: Tensor, lengths: Tensor) -> Tensor:
    return (tokens * reference).sum(-1) / lengths.clamp_min(EPS)


def _phases(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Where in a step each place starts, [N] fp64 in [0, 1)."""
    rows, cols = (torch.arange(size, dtype=torch.float64, device=device) for size in grid)
    return (0.5 + rows[:, None] * _ROW + cols * _COLUMN).flatten() % 1
