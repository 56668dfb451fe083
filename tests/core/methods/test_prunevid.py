"""PruneVid's outer stage: against a loop in float64, its rule of 14 tokens, its segments and its bound."""

import numpy as np
import pytest
import torch

import dycoke
from dycoke.methods.prunevid import PruneVidOuter, clusters_of, most_tokens
from dycoke.ops.tokens.segments import contiguous
from dycoke.types import VisualTokens
from tests.cases import folded
from tests.support.slow_merging import cosine, dpc
from tests.support.stage_one import SHAPES, check_contract, check_equal, check_identity, clip, constant


def slow(tokens: VisualTokens, keep=0.5, tau=0.8, segments=0.25):
    """Slots and tokens in published order."""
    x = tokens.embeds.double().numpy()
    frames, per_frame, _ = x.shape
    _, members = dpc(x.mean(1), max(1, int(frames * segments)), min(7, frames))
    label = {t: centre for centre, of_it in members.items() for t in of_it}
    slots, embeds = [], []

    def group(points, places, frame):
        if len(places) <= 14:
            clusters = {i: [i] for i in range(len(places))}
        else:
            clusters = dpc(points, max(1, int(len(places) * keep)), 7)[1]
        for centre, of_it in clusters.items():  # in order of their scores
            slots.append(frame * per_frame + places[centre])
            embeds.append(points[of_it].mean(0))

    for first, last in contiguous([label[t] for t in range(frames)]):
        scene = range(first, last + 1)
        static = [
            n
            for n in range(per_frame)
            if last > first and np.mean([cosine(x[a, n], x[b, n]) for a in scene for b in scene if a != b]) > tau
        ]
        moving = [n for n in range(per_frame) if n not in static]
        group(x[first : last + 1, static].mean(0), static, first)
        for t in scene:
            group(x[t, moving], moving, t)
    return slots, embeds


@folded("frames", [1, 2, 5, 8, 12])
@folded("keep", [0.1, 0.5, 0.9])
def test_equals_the_loop(frames, keep):
    for seed in range(2):
        tokens = clip(frames, (5, 7), seed=seed, move=0.3)
        slots, embeds = slow(tokens, keep)
        check_equal(PruneVidOuter(keep).compress(tokens), slots, embeds)
        order = np.argsort(slots)
        raster = PruneVidOuter(keep, order="raster").compress(tokens)
        check_equal(raster, [slots[i] for i in order], [embeds[i] for i in order])


@pytest.mark.parametrize("options", [{"tau": 0.98}, {"tau": 0.2}, {"segments": 0.6}])
def test_options_reach_the_loop(options):
    tokens = clip(10, (5, 7), seed=4, move=0.3)
    check_equal(PruneVidOuter(**options).compress(tokens), *slow(tokens, **options))
    assert len(PruneVidOuter(**options).compress(tokens).index) != len(PruneVidOuter().compress(tokens).index)


@folded("frames,grid", SHAPES)
def test_contract(frames, grid):
    for tokens in (clip(frames, grid), clip(frames, grid, dtype=torch.bfloat16), constant(frames, grid)):
        for options in ({}, {"keep": 0.01}, {"keep": 0.99}, {"order": "raster"}, {"positions": "original"}):
            check_contract(PruneVidOuter(**options), tokens)
    check_contract(PruneVidOuter(), constant(frames, grid, value=0.0))
    check_identity(PruneVidOuter(keep=1.0), clip(frames, grid, dtype=torch.bfloat16))


def test_groups_of_fourteen_stay_and_of_fifteen_are_halved():
    for per_frame, left in ((14, 14), (15, 7)):
        tokens = clip(1, (1, per_frame), dtype=torch.bfloat16)
        kept = PruneVidOuter().compress(tokens)
        assert len(kept.index) == left
    assert [clusters_of(0.5, n) for n in (0, 14, 15, 196)] == [0, 14, 7, 98]


def test_a_group_that_stays_is_bit_for_bit():
    tokens = clip(3, (2, 7), dtype=torch.bfloat16, move=50)
    check_identity(PruneVidOuter(tau=1.0), tokens)


def test_a_video_that_never_moves_is_one_segment_of_static_tokens():
    kept = PruneVidOuter().compress(constant(8, (4, 5)))
    assert kept.index.tolist() == list(range(10)) and torch.equal(kept.embeds, torch.ones(10, 16))


def test_static_tokens_come_before_the_others_of_their_first_frame():
    embeds = torch.eye(4)[None].repeat(2, 1, 1)
    embeds[1, 0] = -embeds[1, 0]  # place 0 is not static
    tokens = VisualTokens(embeds, (2, 2))
    assert PruneVidOuter().compress(tokens).index.tolist() == [1, 2, 3, 0, 4]
    assert PruneVidOuter(positions="original").compress(tokens).index.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("keep,bound", [(0.5, 2 * (91 + 7)), (0.9, 2 * 176), (0.01, 2 * (14 + 1) - 1)])
def test_bound_is_the_worst_split_of_a_frame(keep, bound):
    """Half a frame's static clusters count, for a segment with static tokens has two frames at least."""
    assert most_tokens(keep, 2, 196) == max(2 * clusters_of(keep, 196 - n) + clusters_of(keep, n) for n in range(197))
    assert most_tokens(keep, 2, 196) == bound


@pytest.mark.parametrize(
    "options,error",
    [
        ({"keep": 0}, r"keep=0: expected a number in \(0, 1\]"),
        ({"tau": 1.2}, r"tau=1\.2"),
        ({"segments": 0}, r"segments=0"),
        ({"order": "time"}, r"order='time': expected one of published, raster"),
        ({"positions": "kept"}, r"positions='kept'"),
    ],
)
def test_option_out_of_range(options, error):
    with pytest.raises(ValueError, match=error):
        dycoke.build("prunevid", **options)


def test_every_option_reaches_the_stage():
    options = {"keep": 0.3, "tau": 0.7, "segments": 0.5, "positions": "original", "order": "raster"}
    assert dycoke.build("prunevid", **options).plan().before == PruneVidOuter(**options)
