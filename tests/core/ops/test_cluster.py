"""Density peaks: batched and padded against one group at a time in float64; ties; what padding must not touch."""

import numpy as np
import pytest
import torch

from dycoke.ops.tokens.cluster import cluster_means, density_scores, distances, dpc_knn
from dycoke.ops.tokens.rank import mask_slots, ranks, top_mask
from tests.support.slow_merging import dpc

SIZES = [7, 1, 4, 0, 9]  # valid tokens of each group, of nine
COUNTS = [3, 1, 4, 0, 2]


def groups(seed=0, dim=8):
    """Tokens [5, 9, D], valid [5, 9] at random places; what is not valid is far away."""
    random = np.random.RandomState(seed)
    tokens, valid = 50 + 0 * random.standard_normal((5, 9, dim)), np.zeros((5, 9), dtype=bool)
    for g, size in enumerate(SIZES):
        valid[g, random.permutation(9)[:size]] = True
        tokens[g, valid[g]] = random.standard_normal((size, dim))
    return torch.tensor(tokens, dtype=torch.float32), torch.tensor(valid)


@pytest.mark.parametrize("neighbours", [1, 3, 7, 20])
@pytest.mark.parametrize("limited", [False, True])
def test_groups_are_clustered_as_if_alone(neighbours, limited):
    for seed in range(4):
        tokens, valid = groups(seed)
        counts = torch.tensor(COUNTS)
        centres, assignment, place = dpc_knn(tokens, valid, counts, neighbours, counts if limited else None)
        assert not (centres & ~valid).any() and centres.sum(1).tolist() == COUNTS
        means, sizes = cluster_means(tokens, assignment, valid)
        for g, (size, count) in enumerate(zip(SIZES, COUNTS, strict=True)):
            where = valid[g].nonzero().flatten().tolist()
            points = tokens[g, where].double().numpy()
            k = min(neighbours, count if limited else size)
            expected, members = dpc(points, count, k)
            assert centres[g].nonzero().flatten().tolist() == sorted(where[c] for c in expected)
            assert sorted(where[c] for c in expected) == sorted(place[g].argsort()[:count].tolist())
            assert [place[g, where[c]].item() for c in expected] == list(range(count))
            for centre, all_of_it in members.items():
                assert all(assignment[g, where[i]] == where[centre] for i in all_of_it)
                assert sizes[g, where[centre]] == len(all_of_it)
                mean = torch.tensor(points[all_of_it].mean(0), dtype=torch.float32)
                torch.testing.assert_close(means[g, where[centre]], mean, atol=1e-5, rtol=0)


def test_far_tokens_keep_their_distances():
    """An offset a thousand times the spread, as wide channels have, must not drown it."""
    tokens = torch.randn(2, 30, 64, generator=torch.Generator().manual_seed(0)) + 1000
    expected = torch.cdist(tokens.double(), tokens.double()) / 8
    torch.testing.assert_close(distances(tokens).double(), expected, atol=1e-4, rtol=0)


def test_equal_tokens_are_centres_from_the_lowest_index_on_and_belong_to_themselves():
    valid = torch.tensor([[False, True, True, True, True]])
    centres, assignment, place = dpc_knn(torch.ones(1, 5, 4), valid, torch.tensor([3]), 2)
    assert centres.tolist() == [[False, True, True, True, False]]
    assert assignment[0, 1:].tolist() == [1, 2, 3, 1] and place[0].tolist() == [4, 0, 1, 2, 3]


def test_what_is_not_valid_widens_no_group():
    """The densest token's score is its density times the largest distance between valid tokens."""
    tokens = torch.tensor([[[0.0], [1.0], [3.0], [90.0]]])
    valid = torch.tensor([[True, True, True, False]])
    scores = density_scores(distances(tokens), valid, 2)
    density = np.exp([-0.5, -0.5, -2.0])
    torch.testing.assert_close(scores[0, :3], torch.tensor(density * [3, 1, 2], dtype=torch.float32))
    assert scores[0, 3] == -torch.inf


def test_ranks_and_masks_break_ties_by_index():
    scores = torch.tensor([[1.0, 3.0, 3.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
    assert ranks(scores).tolist() == [[2, 0, 1, 3], [0, 1, 2, 3]]
    assert top_mask(scores, torch.tensor([1, 3])).tolist() == [[False, True, False, False], [True, True, True, False]]
    assert mask_slots(scores == 5, 4).tolist() == [4, 5, 6, 7]
    assert ranks(torch.zeros(1, 3000))[0].equal(torch.arange(3000))


def test_nothing_is_read_back():
    """Meta tensors hold no data: what depends on it cannot run on them."""
    tokens, valid, counts = (torch.empty(4, 9, 8), torch.empty(4, 9, dtype=torch.bool), torch.empty(4).long())
    centres, assignment, _ = dpc_knn(tokens.to("meta"), valid.to("meta"), counts.to("meta"), 7)
    assert cluster_means(tokens.to("meta"), assignment, centres)[0].shape == tokens.shape
    assert mask_slots(centres, 12).shape == (12,)
