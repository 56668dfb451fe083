"""HoliTom's outer stage: against a loop in float64, its segments against all segmentations, its published quirks."""

import math

import numpy as np
import pytest
import torch

import dycoke
from dycoke.methods.holitom import HoliTomOuter, kept_of_left
from dycoke.ops.tokens.segments import still_counts, still_steps, stillest_segments
from dycoke.types import VisualTokens
from tests.cases import folded
from tests.support.slow_merging import cosine, dpc
from tests.support.stage_one import SHAPES, check_contract, check_equal, check_identity, clip, constant


def still_places(x, first, last, tau):
    steps = range(first, last)
    return [n for n in range(x.shape[1]) if all(cosine(x[t, n], x[t + 1, n]) > tau for t in steps)] if steps else []


def segmentations(frames):
    """Every way to cut so many frames, in no particular order."""
    if not frames:
        return [[]]
    return [[*rest, (first, frames - 1)] for first in range(frames) for rest in segmentations(first)]


def removed(x, segments, tau):
    return sum(len(still_places(x, first, last, tau)) * (last - first) for first, last in segments)


def best_segments(x, tau):
    """The best segmentation from the front, each step taking the shortest last segment among those as good."""
    best = [(0, [])]
    for last in range(len(x)):
        found = None
        for first in range(last, -1, -1):
            gain = best[first][0] + len(still_places(x, first, last, tau)) * (last - first)
            if found is None or gain > found[0]:
                found = gain, [*best[first][1], (first, last)]
        best.append(found)
    return best[-1]


def slow(tokens: VisualTokens, keep, tau=0.8, beta=0.6, neighbours=7):
    """Slots and tokens in published order."""
    x, saliency = tokens.embeds.double().numpy(), tokens.saliency.double().numpy()
    frames, per_frame, _ = x.shape
    gone, segments = best_segments(x, tau)
    ratio = min(keep / ((frames * per_frame - gone) / (frames * per_frame)), 1)
    slots, embeds = [], []
    for first, last in segments:
        still = still_places(x, first, last, tau)
        if still:
            means = np.mean(x[first : last + 1, still], axis=0)
            count = round(len(still) * ratio) or int(len(still) == per_frame)
            _, members = dpc(means, count, min(neighbours, count))
            for centre in sorted(members):
                others = members[centre][1:]
                mean = means[others].mean(0) if others else means[centre]
                slots.append(first * per_frame + still[centre])
                embeds.append(beta * means[centre] + (1 - beta) * mean)
        moving = [n for n in range(per_frame) if n not in still]
        for t in range(first, last + 1):
            best = sorted(moving, key=lambda n: (-saliency[t, n], n))[: math.ceil(len(moving) * ratio)]
            slots += [t * per_frame + n for n in sorted(best)]
            embeds += [x[t, n] for n in sorted(best)]
    return slots, embeds


@folded("frames", [1, 2, 5, 8, 12])
@folded("keep", [0.1, 0.25, 0.6])
def test_equals_the_loop(frames, keep):
    for seed in range(3):
        tokens = clip(frames, seed=seed)
        slots, embeds = slow(tokens, keep)
        check_equal(HoliTomOuter(keep).compress(tokens), slots, embeds)
        order = np.argsort(slots)
        raster = HoliTomOuter(keep, order="raster").compress(tokens)
        check_equal(raster, [slots[i] for i in order], [embeds[i] for i in order])


@pytest.mark.parametrize("options", [{"tau": 0.98}, {"tau": 0.3}, {"beta": 0.2}, {"neighbours": 2}])
def test_options_reach_the_loop(options):
    tokens = clip(8, seed=5)
    check_equal(HoliTomOuter(0.4, **options).compress(tokens), *slow(tokens, 0.4, **options))


@pytest.mark.parametrize("seed", range(5))
def test_no_segmentation_lets_more_go(seed):
    x = clip(7, (3, 3), seed=seed, move=0.8).embeds
    still = torch.nn.functional.cosine_similarity(x[1:], x[:-1], dim=-1) > 0.8
    segments, gone = stillest_segments(still_counts(still_steps(still)).tolist())
    x = x.double().numpy()
    assert gone == max(removed(x, each, 0.8) for each in segmentations(7))
    assert gone == removed(x, segments, 0.8) and (gone, segments) == best_segments(x, 0.8)


@folded("frames,grid", SHAPES)
def test_contract(frames, grid):
    for tokens in (clip(frames, grid), clip(frames, grid, dtype=torch.bfloat16), constant(frames, grid)):
        for options in ({}, {"keep": 0.01}, {"keep": 0.99}, {"order": "raster"}, {"positions": "original"}):
            check_contract(HoliTomOuter(**options), tokens)
    check_contract(HoliTomOuter(), constant(frames, grid, value=0.0))
    check_identity(HoliTomOuter(keep=1.0), clip(frames, grid, dtype=torch.bfloat16))


def test_a_video_that_never_moves_is_one_cluster_of_still_tokens_a_place():
    """All four frames are one segment: 4 x 20 tokens become 20, and R' = .25 / .25 keeps them all."""
    tokens = constant(4, (4, 5))
    kept = HoliTomOuter(0.25).compress(tokens)
    assert kept.index.tolist() == list(range(20)) and torch.equal(kept.embeds, tokens.embeds[0])


def test_a_still_token_that_rounding_would_lose_stays():
    """R' = .1 / .5 of one place in two frames rounds to no cluster; the segment keeps one."""
    assert HoliTomOuter(0.1).compress(constant(2, (1, 1))).index.tolist() == [0]


def test_published_order_puts_still_tokens_before_the_moving_ones_of_their_first_frame():
    still = torch.eye(4)[None].repeat(2, 1, 1)
    still[1, 0] = -still[1, 0]  # place 0 moves
    tokens = VisualTokens(still, (2, 2), torch.ones(2, 4))
    assert HoliTomOuter(0.99).compress(tokens).index.tolist() == [1, 2, 3, 0, 4]
    assert HoliTomOuter(0.99, order="raster").compress(tokens).index.tolist() == [0, 1, 2, 3, 4]


def test_saliency_of_zero_still_goes_before_still_tokens():
    """Place 0 stays still, 1 to 3 move; without any saliency the first moving ones are kept."""
    embeds = torch.eye(4)[None].repeat(2, 1, 1)
    embeds[1, 1:] = -embeds[1, 1:]
    kept = HoliTomOuter(0.5).compress(VisualTokens(embeds, (2, 2), torch.zeros(2, 4)))
    assert kept.index.tolist() == [0, 1, 2, 5, 6]


def test_ratio_is_what_is_left_after_merging_in_double():
    assert kept_of_left(0.25, 0, 100) == 0.25
    assert kept_of_left(0.25, 60, 100) == 0.25 / ((100 - 60) / 100)
    assert kept_of_left(0.5, 60, 100) == 1.0


@pytest.mark.parametrize(
    "options,error",
    [
        ({"keep": 0}, r"keep=0: expected a number in \(0, 1\]"),
        ({"tau": 1.2}, r"tau=1\.2"),
        ({"beta": -1}, r"beta=-1"),
        ({"neighbours": 0}, r"neighbours=0: expected an integer from 1"),
        ({"order": "time"}, r"order='time': expected one of published, raster"),
        ({"positions": "kept"}, r"positions='kept'"),
        ({"newlines": "folded"}, r"newlines='folded': expected one of kept, published"),
    ],
)
def test_option_out_of_range(options, error):
    with pytest.raises(ValueError, match=error):
        dycoke.build("holitom", **options)


def test_every_option_reaches_the_stage():
    options = {"keep": 0.3, "tau": 0.7, "beta": 0.5, "neighbours": 3, "positions": "original", "order": "raster"}
    assert dycoke.build("holitom", **options).plan().before == HoliTomOuter(**options)
    with pytest.raises(TypeError, match=r"neighbours=7\.0: expected an integer"):
        dycoke.build("holitom", neighbours=7.0)
