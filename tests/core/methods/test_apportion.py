"""An exact budget shared among frames, against seats handed out one by one."""

import pytest
import torch

from dycoke.methods.vidcom2 import apportion
from dycoke.ops.tokens.rank import mask_slots
from tests.cases import folded


def seats(targets: list[float], per_frame: int, total: int) -> list[int]:
    """Tokens of each frame by highest averages: the next goes where target / (2 * taken + 1) is largest."""
    taken = [0] * len(targets)
    if total >= len(targets):
        taken = [1] * len(targets)
    while sum(taken) < total:
        open_ = [t for t in range(len(targets)) if taken[t] < per_frame]
        taken[max(open_, key=lambda t: (targets[t] / (2 * taken[t] + 1), -t))] += 1
    return taken


@folded("frames,per_frame", [(1, 1), (1, 9), (5, 4), (8, 9), (32, 20)])
@folded("share", [0.0, 0.03, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_budget_is_exact_and_shared_by_highest_averages(frames, per_frame, share):
    generator = torch.Generator().manual_seed(frames)
    score = torch.rand(frames, per_frame, generator=generator)
    target = per_frame * torch.rand(frames, generator=generator) ** 2 + 0.01
    total = round(share * frames * per_frame)
    mask = apportion(score, target, total)
    want = seats(target.tolist(), per_frame, total)
    assert mask.sum(1).tolist() == want
    for t, row in enumerate(score.tolist()):
        assert sorted(mask[t].nonzero().flatten().tolist()) == sorted(
            sorted(range(per_frame), key=row.__getitem__)[: want[t]]
        )
    assert mask_slots(mask, total).tolist() == mask.flatten().nonzero().flatten().tolist()


def test_whole_targets_are_met_and_no_frame_is_left_empty():
    score = torch.zeros(3, 6)
    assert apportion(score, torch.tensor([1.0, 5.0, 3.0]), 9).sum(1).tolist() == [1, 5, 3]
    assert apportion(score, torch.tensor([0.001, 5.0, 3.0]), 8).sum(1).tolist() == [1, 4, 3]
    assert apportion(score, torch.tensor([0.001, 5.0, 3.0]), 2).sum(1).tolist() == [0, 1, 1]


def test_ties_go_to_the_lower_slot():
    mask = apportion(torch.zeros(3, 4), torch.ones(3), 5)
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("total", [-1, 13])
def test_a_budget_out_of_range(total):
    with pytest.raises(ValueError, match=f"total={total}: expected 0 to 12 tokens of 3 frames of 4"):
        apportion(torch.zeros(3, 4), torch.ones(3), total)
