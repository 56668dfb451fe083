"""Choosing tokens one by one, each far from those before: the kernel and the reference agree with a loop."""

import pytest
import torch

from dycoke.ops.tokens.diverse import diverse_tokens, farthest_torch
from dycoke.ops.tokens.diverse_triton import farthest_triton
from tests.cases import folded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VERSIONS = {"torch": farthest_torch, "triton": farthest_triton}


def case(frames: int, per_frame: int, ties: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(per_frame)
    weighted = torch.randn(frames, per_frame, per_frame, generator=generator)
    weighted = weighted.round() if ties else weighted
    weighted.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    return weighted.to(DEVICE), torch.randint(per_frame, (frames,), generator=generator).to(DEVICE)


def loop(weighted: torch.Tensor, first: int, count: int) -> list[int]:
    chosen = [first]
    while len(chosen) < count:
        rest = [n for n in range(len(weighted)) if n not in chosen]
        chosen.append(max(rest, key=lambda n: (min(float(weighted[i, n]) for i in chosen), -n)))
    return sorted(chosen)


@folded("ties", [False, True])
@folded("frames,per_frame", [(1, 2), (3, 9), (2, 16), (2, 33)])
@pytest.mark.parametrize("version", VERSIONS)
def test_choices_are_the_loops(version, frames, per_frame, ties, poison_empty):
    weighted, first = case(frames, per_frame, ties)
    for count in {1, 2, per_frame // 2 or 1, per_frame}:
        mask = VERSIONS[version](weighted, first, count)
        for frame in range(frames):
            want = loop(weighted[frame], int(first[frame]), count)
            assert mask[frame].nonzero().flatten().tolist() == want


def test_nothing_asked_is_nothing_chosen():
    assert not diverse_tokens(torch.rand(2, 4, 4), torch.rand(2, 4), 0).any()
