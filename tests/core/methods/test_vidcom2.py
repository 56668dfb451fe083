"""VidCom2 against a slow float64 reading of its description, and its budget against the published rounding."""

import math

import pytest
import torch
from torch import Tensor

import dycoke
from dycoke.types import VisualTokens
from tests.cases import folded
from tests.core.methods.test_apportion import seats


def described(embeds: Tensor, keep: float) -> tuple[list[list[float]], list[float]]:
    """Score of every token [T][N], lower kept first, and the scale [T] of every frame; one number at a time."""
    x = embeds.double().tolist()
    frames, per_frame, dim = embeds.shape
    column = [[x[t][n][c] for t in range(frames) for n in range(per_frame)] for c in range(dim)]
    means = [math.fsum(values) / len(values) for values in column]
    spread = [math.fsum((v - mean) ** 2 for v in values) for values, mean in zip(column, means, strict=True)]
    steady = sorted(range(dim), key=lambda c: (spread[c], c))[: dim // 2]
    unit = []
    for frame in x:
        unit.append([])
        for token in frame:
            part = [token[c] for c in steady]
            length = math.sqrt(math.fsum(v * v for v in part))
            unit[-1].append([v / length for v in part])

    def mean(tokens):
        return [math.fsum(token[c] for token in tokens) / len(tokens) for c in range(len(steady))]

    def likeness(token, center):
        squared = math.fsum((a - b) ** 2 for a, b in zip(token, center, strict=True))
        return math.fsum(math.exp(-squared / (2 * 2.0**k)) for k in (-3, -2, -1, 0, 1))

    center = mean([token for frame in unit for token in frame])
    to_video = [[likeness(token, center) for token in frame] for frame in unit]
    to_frame = [[likeness(token, mean(frame)) for token in frame] for frame in unit]
    frame_score = [-math.fsum(row) / per_frame for row in to_video]
    top = max(frame_score)
    weight = [math.exp((s - top) / 0.01) for s in frame_score]
    share = [w / math.fsum(weight) for w in weight]
    scale = [min(1.0, keep * (1 + p - 1 / frames)) for p in share]
    return [[v + f for v, f in zip(*rows, strict=True)] for rows in zip(to_video, to_frame, strict=True)], scale


def video(frames: int, grid: tuple[int, int], seed: int, dtype=torch.float32) -> VisualTokens:
    """Frames that share a picture, so that their scores differ by about the temperature."""
    generator = torch.Generator().manual_seed(seed)
    size = grid[0] * grid[1]
    noise = torch.randn(frames, size, 16, generator=generator) * torch.rand(frames, 1, 1, generator=generator)
    return VisualTokens((torch.randn(size, 16, generator=generator) + noise / 2).to(dtype), grid)


@folded("frames,grid", [(1, (3, 3)), (3, (3, 4)), (8, (4, 4))])
@folded("keep", [0.02, 0.1, 0.25, 0.5, 0.9])
@folded("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_description(frames, grid, keep, dtype):
    for seed in range(3):
        tokens = video(frames, grid, seed, dtype)
        kept = dycoke.build("vidcom2", keep=keep).compress(tokens)
        score, scale = described(tokens.embeds, keep)
        per_frame = len(score[0])
        total = min(frames * per_frame, max(1, round(keep * frames * per_frame)))
        quotas = seats([s * per_frame for s in scale], per_frame, total)
        want = []
        for t, quota in enumerate(quotas):
            want += [t * per_frame + n for n in sorted(sorted(range(per_frame), key=score[t].__getitem__)[:quota])]
        assert kept.index.tolist() == want
        assert torch.equal(kept.embeds, tokens.embeds.flatten(0, 1)[want])


def test_quotas_are_the_published_ones_where_those_meet_the_budget():
    uneven = 0
    for seed in range(40):
        tokens = video(5, (4, 4), seed)
        index = dycoke.build("vidcom2", keep=0.25).compress(tokens).index
        published = [max(1, round(s * 16)) for s in described(tokens.embeds, 0.25)[1]]
        if sum(published) == 20:
            uneven += len(set(published)) > 1
            assert (index // 16).bincount(minlength=5).tolist() == published
    assert uneven >= 5


def test_a_frame_unlike_the_rest_keeps_more():
    tokens = video(8, (4, 4), 0).embeds
    tokens[:] = tokens[0]
    tokens[5] = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    index = dycoke.build("vidcom2", keep=0.25).compress(VisualTokens(tokens, (4, 4))).index
    kept = (index // 16).bincount(minlength=8).tolist()
    assert len(index) == 32 and kept[5] == max(kept) >= 7 and sorted(kept)[-2] <= 4


def test_frames_and_tokens_all_alike_share_evenly_in_raster_order():
    index = dycoke.build("vidcom2", keep=0.25).compress(VisualTokens(torch.ones(4, 16, 8), (4, 4))).index
    assert index.tolist() == [t * 16 + n for t in range(4) for n in range(4)]


def test_one_channel():
    tokens = VisualTokens(torch.randn(2, 4, 1, generator=torch.Generator().manual_seed(0)), (2, 2))
    assert len(dycoke.build("vidcom2", keep=0.5).compress(tokens).index) == 4


@pytest.mark.parametrize("options", [{"keep": 0.0}, {"keep": 1.5}, {"positions": "kept"}])
def test_option_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        dycoke.build("vidcom2", **options)
