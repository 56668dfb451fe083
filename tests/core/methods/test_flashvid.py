"""FlashVID's outer stage: against a loop in float64, its choice of diverse tokens, its trees, its exact budget."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import dycoke
from dycoke.methods.flashvid import (
    FlashVidOuter,
    kept_per_frame,
    links,
    share_out,
    tree_means,
    tree_sums_by_children,
)
from dycoke.ops.tokens.diverse import cosine_distances, diverse_tokens
from dycoke.types import VisualTokens
from tests.cases import folded
from tests.support.slow_merging import cosine, cut, dpc
from tests.support.stage_one import SHAPES, check_contract, check_equal, check_identity, clip, constant


def slow_diverse(x, weight, count):
    """Indices of the tokens of one frame that are chosen."""
    size = len(x)
    apart = [[0 if i == j else (1 - cosine(x[i], x[j])) * weight[j] for j in range(size)] for i in range(size)]
    chosen = []
    while len(chosen) < count:
        score = {
            j: min(apart[i][j] for i in chosen) if chosen else sorted(apart[i][j] for i in range(size))[1]
            for j in range(size)
            if j not in chosen
        }
        chosen.append(max(score, key=lambda j: (score[j], -j)))
    return chosen


def slow_trees(x, free, segment, tau, limit):
    """Members of every tree of a segment, by the slot (t, n) of its root, and how many of them are its children."""
    wanted = []
    for s, t in pairwise(segment):
        for n in free[t]:
            best = max(free[s], key=lambda m: (cosine(x[t, n], x[s, m]), -m))
            if cosine(x[t, n], x[s, best]) > tau:
                wanted.append((-cosine(x[t, n], x[s, best]), (t, n), (s, best)))
    parent = {child: onto for _, child, onto in sorted(wanted)[:limit]}
    trees, children = {}, {}
    for t in segment:
        for n in free[t]:
            root = (t, n)
            while root in parent:
                root = parent[root]
            trees.setdefault(root, []).append(x[t, n])
            children[root] = children.get(root, 0) + (parent.get((t, n)) == root)
    return trees, children


def slow(
    tokens: VisualTokens, keep, expansion=1.25, alpha=0.7, tau_segment=0.9, segments=8, tau_merge=0.8, trees="mean"
):
    """Slots and tokens in raster order."""
    x, saliency = tokens.embeds.double().numpy(), tokens.saliency.double().numpy()
    frames, per_frame, _ = x.shape
    kept = min(per_frame, math.ceil(per_frame * keep * expansion))
    diverse = math.ceil(kept * alpha)
    pooled = x.mean(1)
    out = {}
    for segment in cut([cosine(pooled[t], pooled[t + 1]) for t in range(frames - 1)], tau_segment, segments):
        free = {}
        for t in segment:
            relevance = [np.mean([x[t, n] @ pooled[u] for u in segment]) for n in range(per_frame)]
            chosen = slow_diverse(x[t], saliency[t] * np.array(relevance), diverse)
            free[t] = [n for n in range(per_frame) if n not in chosen]
            out |= {t * per_frame + n: x[t, n] for n in chosen}
        if diverse == kept:
            continue
        members_of, children = slow_trees(x, free, segment, tau_merge, len(segment) * (per_frame - kept))
        value = {
            root: np.sum(members, axis=0) / (1 + children[root] if trees == "published" else len(members))
            for root, members in members_of.items()
        }
        left = [[root for root in value if root[0] == t] for t in segment]
        counts = share_out([len(roots) for roots in left], (kept - diverse) * len(segment))
        for roots, count in zip(left, counts, strict=True):
            if count:
                points = np.array([value[root] for root in sorted(roots)])
                for centre, members in dpc(points, count, min(count, 7))[1].items():
                    t, n = sorted(roots)[centre]
                    out[t * per_frame + n] = points[members].mean(0)
    return sorted(out), [out[slot] for slot in sorted(out)]


@folded("frames", [1, 2, 5, 12, 21])
@folded("keep", [0.1, 0.3, 0.6])
@folded("trees", ["mean", "published"])
def test_equals_the_loop(frames, keep, trees):
    for seed in range(2):
        tokens = clip(frames, seed=seed)
        check_equal(FlashVidOuter(keep, trees=trees).compress(tokens), *slow(tokens, keep, trees=trees))


@pytest.mark.parametrize(
    "options",
    [
        {"expansion": 1.0},
        {"expansion": 2.0},
        {"alpha": 0.0},
        {"alpha": 0.3, "tau_merge": 0.3},
        {"alpha": 1.0},
        {"alpha": 0.2, "tau_segment": 0.1, "segments": 1},
        {"alpha": 0.2, "tau_segment": 0.1, "segments": 3},
        {"alpha": 0.2, "tau_merge": 0.0, "segments": 1, "tau_segment": 0.0},
        {"alpha": 0.2, "tau_merge": 0.0, "segments": 1, "tau_segment": 0.0, "trees": "published"},
        {"alpha": 0.3, "trees": "published"},
    ],
)
def test_options_reach_the_loop(options):
    tokens = clip(13, seed=3, move=0.3)
    found = FlashVidOuter(0.3, **options).compress(tokens)
    check_equal(found, *slow(tokens, 0.3, **options))
    default = FlashVidOuter(0.3).compress(tokens)
    assert found.embeds.shape != default.embeds.shape or not torch.equal(found.embeds, default.embeds)


GROWN = {"alpha": 0.2, "segments": 1, "trees": "published"}


@folded("frames,grid", SHAPES)
def test_contract(frames, grid):
    for tokens in (clip(frames, grid), clip(frames, grid, dtype=torch.bfloat16), constant(frames, grid)):
        for options in (
            {},
            {"keep": 0.01},
            {"keep": 0.7},
            {"positions": "original"},
            {"segments": 1},
            {"alpha": 0.0},
            GROWN,
        ):
            check_contract(FlashVidOuter(**options), tokens)
    check_contract(FlashVidOuter(0.5), constant(frames, grid, value=0.0))
    check_identity(FlashVidOuter(keep=1.0), clip(frames, grid, dtype=torch.bfloat16))
    check_identity(FlashVidOuter(keep=0.8), clip(frames, grid))


def test_budget_of_a_frame_is_rounded_up_in_double_and_clamped():
    counts = [kept_per_frame(keep, 1.25, 196) for keep in (0.1, 0.15, 0.25, 0.8, 1.0)]
    assert counts == [25, 37, 62, 196, 196]
    assert FlashVidOuter().count(32, 196) == 32 * 62 and FlashVidOuter(0.01).count(3, 4) == 3


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_diverse_tokens_equal_the_loop_with_weights_of_both_signs(count):
    generator = torch.Generator().manual_seed(count)
    x, weight = torch.randn(6, 9, 5, generator=generator), torch.randn(6, 9, generator=generator)
    distance = cosine_distances(normalize(x, dim=2))
    assert (distance.diagonal(dim1=1, dim2=2) == 0).all()
    chosen = diverse_tokens(distance, weight, count)
    for t in range(6):
        expected = slow_diverse(x[t].double().numpy(), weight[t].double().numpy(), count)
        assert chosen[t].nonzero().flatten().tolist() == sorted(expected)


def test_tokens_without_saliency_are_diverse_in_their_order():
    chosen = diverse_tokens(torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 5), 3)
    assert chosen.tolist() == [[True, True, True, False, False]] * 2


def test_chains_over_many_frames_are_one_mean():
    """A chain through all ten frames, a branch of two in the middle, a token alone: means over whole trees."""
    tokens = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(0))
    parent = torch.full((10, 3), -1)
    parent[1:, 0] = 0
    parent[4, 1], parent[5, 1] = 0, 1  # (4, 1) joins (3, 0), and (5, 1) joins (4, 1)
    means = tree_means(tokens, parent)
    members = torch.cat([tokens[:, 0], tokens[4:6, 1]])
    torch.testing.assert_close(means[0, 0], members.mean(0))
    torch.testing.assert_close(means[7, 2], tokens[7, 2])
    assert torch.equal(means[3, 1], tokens[3, 1])
    assert (means[1:, 0] == 0).all() and (means[4:6, 1] == 0).all()
    # As published: the sum of all twelve by the root and its one child; a root of two children beside one of none.
    grown = tree_sums_by_children(tokens, parent)
    torch.testing.assert_close(grown[0, 0], members.sum(0) / 2)
    assert torch.equal(grown[3, 1], tokens[3, 1]) and (grown[1:, 0] == 0).all() and (grown[4:6, 1] == 0).all()
    parent[1, 2] = 0
    torch.testing.assert_close(tree_sums_by_children(tokens, parent)[0, 0], (members.sum(0) + tokens[1, 2]) / 3)


def test_published_trees_grow_in_norm_with_their_length():
    """One scene that hardly changes: what one tree takes in is never less than one token, and mostly more."""
    tokens = clip(1, seed=2)
    video = VisualTokens(tokens.embeds.repeat(6, 1, 1), (4, 5), tokens.saliency.repeat(6, 1))
    options = {"keep": 0.4, "segments": 1}
    mean, grown = (FlashVidOuter(trees=trees, **options).compress(video) for trees in ("mean", "published"))
    assert FlashVidOuter(trees="published", **options).count(6, 20) == len(grown.index)
    ratio = grown.embeds.norm(dim=1)[grown.index < 20].max() / mean.embeds.norm(dim=1)[mean.index < 20].max()
    assert ratio > 1.5


def test_links_stay_in_their_segment_and_never_leave_too_few():
    directions = torch.eye(4)[None].repeat(4, 1, 1)
    free = torch.ones(4, 4, dtype=torch.bool)
    segment = torch.tensor([0, 0, 1, 1])
    alone, own = [-1] * 4, [0, 1, 2, 3]
    assert links(directions, free, segment, 0.8, 4).tolist() == [alone, own, alone, own]
    # Two frames may lose one token each: the first two of equal cosines join.
    assert links(directions, free, segment, 0.8, 1).tolist() == [alone, [0, 1, -1, -1]] * 2
    free[1, 0] = free[2, 3] = False  # one that may not join, one that may not be joined
    assert links(directions, free, segment, 0.8, 4).tolist() == [alone, [-1, 1, 2, 3], alone, [0, 1, 2, -1]]
    assert links(directions, free, segment, 1.0, 4).tolist() == [alone] * 4


def test_a_repeated_video_is_merged_down_to_its_budget():
    """Four equal frames in one segment: 7 diverse tokens in each, 13 trees in the first, 12 clusters of these."""
    tokens = clip(1, seed=2)
    video = VisualTokens(tokens.embeds.repeat(4, 1, 1), (4, 5), tokens.saliency.repeat(4, 1))
    kept = FlashVidOuter(0.4, segments=1).compress(video)
    assert (kept.index // 20).bincount().tolist() == [7 + 12, 7, 7, 7]
    changed = (kept.embeds - video.embeds.flatten(0, 1)[kept.index]).abs().amax(1) > 1e-5
    assert changed.sum() == 1 and changed[:19].any()


@pytest.mark.parametrize(
    "options,error",
    [
        ({"keep": 0}, r"keep=0: expected a number in \(0, 1\]"),
        ({"expansion": 0.9}, r"expansion=0\.9: expected a number from 1"),
        ({"expansion": float("nan")}, r"expansion=nan"),
        ({"expansion": float("inf")}, r"expansion=inf"),
        ({"alpha": 1.2}, r"alpha=1\.2"),
        ({"tau_segment": -1}, r"tau_segment=-1"),
        ({"tau_merge": 2}, r"tau_merge=2"),
        ({"segments": 0}, r"segments=0: expected an integer from 1"),
        ({"positions": "kept"}, r"positions='kept'"),
        ({"trees": "sum"}, r"trees='sum': expected one of mean, published"),
    ],
)
def test_option_out_of_range(options, error):
    with pytest.raises(ValueError, match=error):
        dycoke.build("flashvid", **options)


def test_every_option_reaches_the_stage():
    options = {"keep": 0.3, "expansion": 1.5, "alpha": 0.5, "tau_segment": 0.8, "segments": 4, "tau_merge": 0.7}
    options["trees"] = "published"
    assert dycoke.build("flashvid", positions="original", **options).plan().before == FlashVidOuter(
        positions="original", **options
    )
    with pytest.raises(TypeError, match=r"expansion='2': expected a number"):
        dycoke.build("flashvid", expansion="2")


@pytest.mark.parametrize(
    "counts,total,shares",
    [
        ([5, 3, 2], 10, [5, 3, 2]),
        ([5, 3, 2], 99, [5, 3, 2]),
        ([10, 10, 10], 10, [4, 3, 3]),  # equal remainders: the first
        ([100, 1, 0], 50, [49, 1, 0]),  # one each before the remainders
        ([6, 3, 1], 5, [3, 1, 1]),
        ([3, 3], 0, [0, 0]),
        ([], 0, []),
    ],
)
def test_share_out(counts, total, shares):
    assert share_out(counts, total) == shares


def test_share_out_is_exact_and_nobody_gets_more_than_he_has():
    random = np.random.RandomState(0)
    for _ in range(200):
        counts = random.randint(0, 20, size=random.randint(1, 9)).tolist()
        total = random.randint(0, sum(counts) + 1)
        shares = share_out(counts, total)
        assert sum(shares) == total and all(0 <= s <= c for s, c in zip(shares, counts, strict=True))
        if 0 < total < sum(counts):
            assert all(abs(s - c * total / sum(counts)) < 1 for s, c in zip(shares, counts, strict=True))
