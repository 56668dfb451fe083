"""VisionZip's video port against a slow float64 reading of its description."""

import math

import pytest
import torch
from torch import Tensor

import dycoke
from dycoke.methods.visionzip import dominant_tokens
from dycoke.types import VisualTokens
from tests.cases import folded


def described(video: VisualTokens, kept: int) -> tuple[list[int], list[Tensor]]:
    """Slots and tokens in the published order, frame by frame, one token at a time."""
    slots, tokens = [], []
    dominant = int(kept * 54 / 64)
    contextual = kept - dominant
    for t in range(len(video.embeds)):
        x, score, keys = video.embeds[t].double(), video.saliency[t].tolist(), video.keys[t].double()
        size = len(score)
        top = sorted(range(size), key=lambda n: (-score[n], n))[:dominant]
        rest = [n for n in range(size) if n not in top]
        step = max(1, len(rest) // contextual)
        targets = rest[::step][:contextual]
        members = {n: [] for n in targets}
        for n in rest:
            if n not in targets:
                members[max(targets, key=lambda m: (cosine(keys[n], keys[m]), -m))].append(x[n])
        slots += [t * size + n for n in sorted(top) + targets]
        tokens += [x[n] for n in sorted(top)]
        tokens += [x[n] + sum(members[n]) / max(1, len(members[n])) for n in targets]
    return slots, tokens


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / max(math.sqrt(float(a @ a) * float(b @ b)), 1e-12)


def video(frames: int, grid: tuple[int, int], seed: int = 0, dtype=torch.float32) -> VisualTokens:
    generator = torch.Generator().manual_seed(seed)
    size = (frames, grid[0] * grid[1])
    embeds, keys = (torch.randn(*size, dim, generator=generator) for dim in (12, 6))
    saliency = torch.randint(8, size, generator=generator) / 8  # few levels, so that there are ties
    return VisualTokens(embeds.to(dtype), grid, saliency, keys.to(dtype))


@folded("frames,grid", [(1, (3, 3)), (3, (4, 5)), (5, (7, 7))])
@folded("keep", [0.01, 0.1, 0.25, 0.5, 0.8])
@folded("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_description(frames, grid, keep, dtype):
    for seed in range(3):
        tokens = video(frames, grid, seed, dtype)
        kept = dycoke.build("visionzip", keep=keep).compress(tokens)
        slots, want = described(tokens, max(1, round(keep * grid[0] * grid[1])))
        assert kept.index.tolist() == slots
        rtol = 1e-5 if dtype == torch.float32 else 1e-2  # the last bit of bf16 may round the other way
        torch.testing.assert_close(kept.embeds, torch.stack(want).to(dtype), atol=1e-5, rtol=rtol)


@pytest.mark.parametrize("options", [{"order": "raster"}, {"positions": "original"}], ids=str)
def test_raster_order_is_the_same_tokens_sorted(options):
    tokens = video(3, (4, 5))
    published = dycoke.build("visionzip").compress(tokens)
    method = dycoke.build("visionzip", **options)
    kept = method.compress(tokens)
    order = published.index.argsort()
    assert method.raster and not dycoke.build("visionzip").raster
    assert (published.index.diff() < 0).any()
    assert torch.equal(kept.index, published.index[order]) and torch.equal(kept.embeds, published.embeds[order])


def test_budget_of_the_published_tables():
    tokens = video(2, (14, 14))
    for keep, kept, dominant in ((0.1, 20, 16), (0.153, 30, 25), (0.204, 40, 33), (0.255, 50, 42)):
        left = dycoke.build("visionzip", keep=keep).compress(tokens)
        untouched = (left.embeds == tokens.embeds.flatten(0, 1)[left.index]).all(1)
        assert len(left.index) == 2 * kept
        assert untouched.view(2, kept)[:, :dominant].all() and not untouched.view(2, kept)[:, dominant:].any()


def test_a_sum_and_not_a_mean():
    """All tokens alike: the first contextual one takes all others' mean and doubles, the second has none and stays."""
    ones = torch.ones(1, 16, 4)
    tokens = VisualTokens(ones, (4, 4), torch.ones(1, 16), torch.ones(1, 16, 4))
    kept = dycoke.build("visionzip", keep=0.5).compress(tokens)
    assert kept.index.tolist() == [0, 1, 2, 3, 4, 5, 6, 11]
    assert kept.embeds[:, 0].tolist() == [1, 1, 1, 1, 1, 1, 2, 1]


def test_zero_keys_and_saliency():
    tokens = VisualTokens(torch.ones(2, 9, 4), (3, 3), torch.zeros(2, 9), torch.zeros(2, 9, 4))
    kept = dycoke.build("visionzip", keep=0.4).compress(tokens)
    assert kept.index.tolist() == [0, 1, 2, 3, 9, 10, 11, 12] and kept.embeds[3].tolist() == [2.0] * 4


@pytest.mark.parametrize("options", [{"keep": 0.0}, {"keep": 1.5}, {"positions": "kept"}, {"order": "score"}])
def test_option_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        dycoke.build("visionzip", **options)


@pytest.mark.parametrize("kept,dominant", [(1, 0), (2, 1), (20, 16), (30, 25), (40, 33), (50, 42), (64, 54)])
def test_dominant_tokens_of_the_video_port(kept, dominant):
    assert dominant_tokens(kept) == dominant
