"""FastVID: against a loop in float64, the budget of anchors, the pooling head's part, short videos."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import dycoke
from dycoke.methods.fastvid import anchor_counts, llava_video_counts
from dycoke.types import VisualTokens
from tests.cases import folded
from tests.support.slow_merging import cosine, cut, dpc
from tests.support.stage_one import SHAPES, check_contract, check_equal, check_identity, clip, constant


def slow_counts(length, context, room, every):
    return slow_anchors(length, context * length, room, every)


def slow_anchors(length, total, room, every):
    """Anchors of each frame of a segment."""
    while total > math.ceil(length / every) * room:
        every -= 1
    counts = [0] * length
    hosts = list(range(length - 1, -1, -every))
    for i in range(total):
        counts[hosts[i % len(hosts)]] += 1
    return counts


def slow(
    tokens: VisualTokens,
    keep=0.1,
    tau=0.9,
    segments=8,
    anchor_every=4,
    context=0.4,
    beta=0.6,
    release="onevision",
):
    """Slots and tokens in raster order."""
    x, saliency = tokens.embeds.double().numpy(), tokens.saliency.double().numpy()
    frames, per_frame, _ = x.shape
    scenes = x.mean(1) if tokens.scenes is None else tokens.scenes.double().numpy()
    kept = max(1, int(per_frame * keep))
    similarity = [cosine(scenes[t], scenes[t + 1]) for t in range(frames - 1)]
    out = {}
    for segment in cut(similarity, tau, segments):
        length = len(segment)
        if release == "onevision":
            pooled = int(kept * context) * length
            salient_counts = [kept - int(kept * context)] * length
        else:
            pooled = int(kept * length * context)
            share, rest = divmod(kept * length - pooled, length)
            salient_counts = [share + 1] * rest + [share] * (length - rest)
        order = [sorted(range(per_frame), key=lambda n: (-saliency[t, n], n)) for t in segment]
        salient = {t: order[i][: salient_counts[i]] for i, t in enumerate(segment)}
        free = {t: [n for n in range(per_frame) if n not in salient[t]] for t in segment}
        out |= {t * per_frame + n: x[t, n] for t in segment for n in salient[t]}
        counts = slow_anchors(length, pooled, per_frame - max(salient_counts), anchor_every)
        for t, count in zip(segment, counts, strict=True):
            if not count:
                continue
            anchors = sorted(free[t][i] for i in dpc(x[t, free[t]], count, min(4, len(free[t])))[0])
            joined = {a: [] for a in anchors}
            for u in segment:
                for n in free[u]:
                    if release == "llava_video" and u == t and n in anchors:
                        continue
                    joined[max(anchors, key=lambda a: cosine(x[u, n], x[t, a]))].append(x[u, n])
            for a, members in joined.items():
                weight = max(1 / (len(members) + 1), beta)
                mean = np.mean(members, axis=0) if members else 0
                out[t * per_frame + a] = weight * x[t, a] + (1 - weight) * mean
    return sorted(out), [out[slot] for slot in sorted(out)]


@folded("frames", [1, 2, 5, 12, 21])
@folded("keep", [0.1, 0.3, 0.7])
@folded("release", ["onevision", "llava_video"])
def test_equals_the_loop(frames, keep, release):
    for seed in range(2):
        tokens = clip(frames, seed=seed)
        found = dycoke.build("fastvid", keep=keep, release=release).compress(tokens)
        check_equal(found, *slow(tokens, keep, release=release))


@pytest.mark.parametrize(
    "options",
    [
        {"tau": 0.2, "segments": 1},
        {"tau": 0.2, "segments": 3},
        {"segments": 2, "anchor_every": 2},
        {"segments": 1, "anchor_every": 1},
        {"context": 1.0, "segments": 2},
        {"context": 0.0},
        {"beta": 0.0, "segments": 2},
        {"beta": 0.95},
        {"release": "llava_video"},
        {"release": "llava_video", "segments": 1, "tau": 0.2, "context": 0.5},
        {"release": "llava_video", "segments": 2, "anchor_every": 1, "beta": 0.0},
        {"release": "llava_video", "segments": 2, "context": 1.0},
    ],
)
def test_options_reach_the_loop(options):
    tokens = clip(13, seed=3)
    found = dycoke.build("fastvid", keep=0.3, **options).compress(tokens)
    check_equal(found, *slow(tokens, 0.3, **options))
    assert not torch.equal(found.embeds, dycoke.build("fastvid", keep=0.3).compress(tokens).embeds)


def test_scenes_of_the_pooling_head_cut_where_there_are_some():
    tokens = clip(12, seed=1)
    scenes = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    headed = dataclasses.replace(tokens, scenes=scenes)
    method = dycoke.build("fastvid", keep=0.3, tau=0.5, segments=2)
    check_equal(method.compress(headed), *slow(headed, 0.3, tau=0.5, segments=2))
    assert not torch.equal(method.compress(headed).index, method.compress(tokens).index)


OTHER = [{"release": "llava_video", "keep": keep, "segments": 1} for keep in (0.1, 0.5, 0.95)]


@folded("frames,grid", SHAPES)
def test_contract(frames, grid):
    for tokens in (clip(frames, grid), clip(frames, grid, dtype=torch.bfloat16), constant(frames, grid)):
        for options in (
            {},
            {"keep": 0.01},
            {"keep": 0.5},
            {"keep": 0.95},
            {"positions": "packed"},
            {"segments": 1},
            *OTHER,
        ):
            check_contract(dycoke.build("fastvid", **options), tokens)
    check_contract(dycoke.build("fastvid", keep=0.5), constant(frames, grid, value=0.0))
    check_identity(dycoke.build("fastvid", keep=1.0), clip(frames, grid, dtype=torch.bfloat16))


def test_count_is_nineteen_of_196_at_a_tenth():
    method = dycoke.build("fastvid")
    assert method.count(32, 196) == 32 * 19 and method.count(3, 4) == 3
    assert method.positions == "original" and method.raster


def test_salient_tokens_are_bit_for_bit():
    tokens = clip(5, dtype=torch.bfloat16)
    kept = dycoke.build("fastvid", keep=0.5, context=0.0).compress(tokens)
    assert torch.equal(kept.embeds, tokens.embeds.flatten(0, 1)[kept.index])


@pytest.mark.parametrize(
    "lengths,context,room,every,counts",
    [
        ([1, 1], 7, 184, 4, [7, 7]),
        ([5], 7, 184, 4, [17, 0, 0, 0, 18]),  # every 4th from the end; the last takes the remainder
        ([2, 4], 7, 184, 4, [0, 14, 0, 0, 0, 28]),
        ([9], 7, 184, 4, [21, 0, 0, 0, 21, 0, 0, 0, 21]),
        ([8], 39, 137, 4, [0, 104, 0, 0, 104, 0, 0, 104]),  # 312 do not fit two frames of 137: closer together
        ([3], 2, 2, 4, [2, 2, 2]),
        ([4], 0, 5, 4, [0, 0, 0, 0]),
    ],
)
def test_anchor_counts(lengths, context, room, every, counts):
    assert anchor_counts(lengths, context, room, every) == counts


def test_anchor_counts_are_exact_and_fit():
    for length in range(1, 20):
        for context in (1, 3, 7):
            for room in range(context, 25):
                for every in (1, 2, 4, 30):
                    counts = anchor_counts([length], context, room, every)
                    assert counts == slow_counts(length, context, room, every)
                    assert sum(counts) == context * length and max(counts) <= room


def test_the_release_for_llava_video_budgets_by_the_segment():
    """169 tokens a frame, of which a tenth are 16: int(16 * 5 * .4) = 32 anchors and 48 salient tokens in 5 frames."""
    salient, anchors = llava_video_counts([5, 1], 16, 0.4, 169, 4)
    assert salient == [10, 10, 10, 9, 9, 10] and anchors == [16, 0, 0, 0, 16, 6]
    for length in range(1, 12):
        for kept in range(1, 9):
            for context in (0.0, 0.1, 0.4, 1.0):
                salient, anchors = llava_video_counts([length], kept, context, 9, 4)
                assert sum(anchors) == int(kept * length * context) and sum(salient + anchors) == kept * length
                assert max(s + a for s, a in zip(salient, anchors, strict=True)) <= 9
                assert salient == sorted(salient, reverse=True) and salient[0] - salient[-1] <= 1


@pytest.mark.parametrize(
    "options,error",
    [
        ({"keep": 0}, r"keep=0: expected a number in \(0, 1\]"),
        ({"tau": 1.2}, r"tau=1\.2"),
        ({"context": -0.1}, r"context=-0\.1"),
        ({"beta": 2}, r"beta=2"),
        ({"segments": 0}, r"segments=0: expected an integer from 1"),
        ({"anchor_every": 0}, r"anchor_every=0"),
        ({"positions": "kept"}, r"positions='kept'"),
        ({"release": "llava"}, r"release='llava': expected one of onevision, llava_video"),
    ],
)
def test_option_out_of_range(options, error):
    with pytest.raises(ValueError, match=error):
        dycoke.build("fastvid", **options)


def test_vision_head_is_a_path():
    assert dycoke.build("fastvid", vision_head="/a/folder").vision_head == "/a/folder"
    with pytest.raises(TypeError, match=r"vision_head=True: expected a path"):
        dycoke.build("fastvid", vision_head=True)
