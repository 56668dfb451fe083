"""Cuts, segments, stillness and the repair of labels, on examples worked out by hand and against loops."""

import torch

from dycoke.ops.tokens.segments import (
    contiguous,
    find_cuts,
    membership,
    segment_ids,
    spans,
    step_cosine,
    still_counts,
    still_steps,
    stillest_segments,
)
from tests.cases import folded
from tests.support.slow_merging import cosine, cut


@folded("frames", [1, 2, 3, 8, 20])
@folded("threshold", [0.0, 0.3, 0.9])
@folded("segments", [1, 2, 8])
def test_cuts_equal_the_loop(frames, threshold, segments):
    similarity = torch.rand(frames - 1, generator=torch.Generator().manual_seed(frames))
    cuts = find_cuts(similarity, threshold, segments)
    found = spans(segment_ids(cuts).tolist())
    expected = cut(similarity.tolist(), threshold, segments)
    assert found == [(each[0], each[-1]) for each in expected]
    assert len(found) >= min(segments, frames)
    belongs = membership(torch.tensor(found), frames)
    assert [row.nonzero().flatten().tolist() for row in belongs] == expected


def test_equal_steps_are_cut_from_the_first_on():
    assert find_cuts(torch.ones(6), 0.9, 3).tolist() == [True, True, False, False, False, False]


def test_step_cosine_is_fp32_and_takes_zeros():
    frames = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    frames[1, 1] = 0
    got = step_cosine(frames)
    assert got.shape == (3, 3) and got.dtype == torch.float32
    assert got[0, 1] == got[1, 1] == 0
    want = cosine(frames[2, 0].double(), frames[3, 0].double())
    assert abs(got[2, 0].item() - want) < 1e-6


def test_still_steps_and_counts():
    still = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 1]]).bool()
    steps = still_steps(still)
    assert steps.tolist() == [[2, 1, 0], [1, 0, 0], [0, 2, 0], [1, 1, 1], [0, 0, 0]]
    counts = still_counts(steps)
    assert counts.tolist() == [[int((row >= length).sum()) for length in range(5)] for row in steps]
    assert still_steps(still[:0]).tolist() == [[0, 0, 0]]


def test_stillest_segments_prefers_short_last_segments_among_equals():
    """Two still steps of one place each, whichever way they are grouped: 1 + 1 = 2 = one place twice still."""
    counts = still_counts(still_steps(torch.tensor([[True], [True]]))).tolist()
    assert stillest_segments(counts) == ([(0, 2)], 2)
    nothing = still_counts(still_steps(torch.zeros(3, 2).bool())).tolist()
    assert stillest_segments(nothing) == ([(0, 0), (1, 1), (2, 2), (3, 3)], 0)


@folded(
    "labels,segments",
    [
        ([4], [(0, 0)]),
        ([0, 1, 2], [(0, 2)]),  # no run of two frames: one segment
        ([0, 0, 1, 1], [(0, 1), (2, 3)]),
        ([0, 0, 1, 0, 0, 0], [(0, 5)]),  # the short run of 0 and the lone 1 go to the longer run on the right
        ([0, 0, 1, 2, 2], [(0, 2), (3, 4)]),  # as long on both sides: the left one
        ([0, 0, 1, 2, 2, 2], [(0, 1), (2, 5)]),
        ([0, 0, 1, 0, 0], [(0, 4)]),  # both longest runs stay, and what is between them joins
        ([0, 0, 1, 1, 1, 0, 0, 0], [(0, 4), (5, 7)]),  # the shorter run of 0 does not stay
        ([1, 2, 0, 0, 3, 3, 4], [(0, 3), (4, 6)]),
        ([0, 0, 3, 1, 1, 4, 2, 2, 2], [(0, 2), (3, 4), (5, 8)]),
        ([0, 0, 3, 1, 1, 1, 4, 2, 2, 2, 2], [(0, 1), (2, 6), (7, 10)]),  # 1 took the 3 in: as long as 2 by then
        ([0, 0, 0, 3, 1, 1, 4, 0], [(0, 3), (4, 7)]),
    ],
)
def test_labels_become_contiguous(labels, segments):
    assert contiguous(labels) == segments
