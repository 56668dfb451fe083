"""PruMerge and PruMerge+ against a slow float64 reading of their description."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import dycoke
from dycoke.methods.prumerge import outliers
from dycoke.types import VisualTokens

NAMES = ["prumerge", "prumerge_plus"]


def described(name: str, video: VisualTokens, keep: float | str) -> tuple[list[int], list[Tensor]]:
    """Slots and tokens in the published order, frame by frame, one token at a time."""
    frames, size = video.saliency.shape
    each = 4 if name == "prumerge_plus" else 1
    if keep == "adaptive":
        flat = video.saliency.double().flatten().numpy()
        first, third = np.percentile(flat, 25), np.percentile(flat, 75)
        ratio = len([s for s in flat if s > third + 1.5 * (third - first)]) / len(flat)
        left = min(size, max(1, int(size * ratio)) * each + 1)
    else:
        left = min(size, max(1, round(keep * size)))
    if left == size:
        return list(range(frames * size)), list(video.embeds.double().flatten(0, 1))

    slots, tokens = [], []
    for t in range(frames):
        x, score, keys = video.embeds[t].double(), video.saliency[t].double().tolist(), video.keys[t].double()
        by_score = sorted(range(size), key=lambda n: (-score[n], n))
        count = max(1, left - 1)
        chosen = by_score[: math.ceil(count / each)]
        rest = [n for n in range(size) if n not in chosen]
        spaced = count - len(chosen)
        chosen = chosen + [rest[i * len(rest) // spaced] for i in range(spaced)]
        for n in chosen:
            others = sorted((m for m in range(size) if m != n), key=lambda m: (-cosine(keys[n], keys[m]), m))
            tokens.append(x[n] + sum(score[m] * x[m] for m in others[:32]))
        slots += [t * size + n for n in chosen]
        if left > 1:
            unchosen = [n for n in by_score if n not in chosen]
            tokens.append(sum(score[n] * x[n] for n in unchosen))
            slots.append(t * size + unchosen[0])
    return slots, tokens


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / max(math.sqrt(float(a @ a) * float(b @ b)), 1e-12)


def video(frames: int, grid: tuple[int, int], seed: int = 0, dtype=torch.float32) -> VisualTokens:
    """Random tokens with a heavy tail of saliency, on few levels so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    size = (frames, grid[0] * grid[1])
    embeds, keys = (torch.randn(*size, dim, generator=generator) for dim in (12, 6))
    saliency = (torch.randn(size, generator=generator).mul(1.5).exp() * 2).ceil() / 64
    return VisualTokens(embeds.to(dtype), grid, saliency, keys.to(dtype))


@pytest.mark.parametrize("frames,grid", [(1, (2, 2)), (3, (4, 5)), (3, (7, 7))])
@pytest.mark.parametrize("keep", ["adaptive", 0.01, 0.1, 0.25, 0.55, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_description(name, frames, grid, keep, dtype):
    for seed in range(2):
        tokens = video(frames, grid, seed, dtype)
        kept = dycoke.build(name, keep=keep).compress(tokens)
        slots, want = described(name, tokens, keep)
        assert kept.index.tolist() == slots
        rtol = 1e-5 if dtype == torch.float32 else 1e-2  # the last bit of bf16 may round the other way
        torch.testing.assert_close(kept.embeds, torch.stack(want).to(dtype), atol=1e-4, rtol=rtol)


@pytest.mark.parametrize("name,each", [("prumerge", 1), ("prumerge_plus", 4)])
def test_adaptive_counts_the_outliers_of_the_whole_video(name, each):
    saliency = torch.full((2, 16), 0.01)
    saliency[0, [3, 5, 7, 9, 11, 12]] = 1.0  # 6 of 32 stand out: 3 a frame, though the second frame has none
    tokens = VisualTokens(
        torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(0)), (4, 4), saliency, torch.ones(2, 16, 4)
    )
    method = dycoke.build(name)
    assert method.count(2, 16) is None and method.bound(2, 16) == 2 * min(16, 4 * each + 1)
    index = method.compress(tokens).index.view(2, -1)
    assert index.shape[1] == 3 * each + 1
    assert index[0, :3].tolist() == [3, 5, 7] and (index[1, :3] - 16).tolist() == [0, 1, 2]


def test_outliers_lie_above_interpolated_quartiles():
    generator = torch.Generator().manual_seed(0)
    counts = set()
    for size in range(1, 200):
        saliency = torch.randn(1, size, generator=generator).mul(2).exp()
        first, third = np.percentile(saliency.double().numpy(), [25, 75])
        counts.add(outliers(saliency))
        assert outliers(saliency) == int((saliency > third + 1.5 * (third - first)).sum())
    assert len(counts) > 3


@pytest.mark.parametrize("name,left", [("prumerge", 2), ("prumerge_plus", 5)])
def test_adaptive_keeps_one_where_nothing_stands_out(name, left):
    tokens = VisualTokens(torch.ones(2, 9, 4), (3, 3), torch.zeros(2, 9), torch.zeros(2, 9, 4))
    kept = dycoke.build(name).compress(tokens)
    assert len(kept.index) == 2 * left
    assert kept.embeds[left - 1].tolist() == [0.0] * 4  # the extra token, of no saliency


@pytest.mark.parametrize("name", NAMES)
def test_the_bound_holds_where_quartiles_round(name):
    """The third quartile of these lies between two neighbouring floats, and rounds to the lower one."""
    one = torch.tensor(1.0)
    saliency = torch.stack([one] * 5 + [torch.nextafter(one, one * 2)] * 2)[None]
    kept = dycoke.build(name).compress(VisualTokens(torch.ones(1, 7, 2), (1, 7), saliency, torch.ones(1, 7, 2)))
    assert len(kept.index) <= dycoke.build(name).bound(1, 7)


@pytest.mark.parametrize("name", NAMES)
def test_the_share_of_the_published_tables(name):
    kept = dycoke.build(name, keep=0.55).compress(video(2, (14, 14)))
    assert len(kept.index) == 2 * 108 == dycoke.build(name, keep=0.55).count(2, 196)


def test_plus_keeps_a_quarter_by_saliency_and_spaces_the_rest():
    saliency = torch.zeros(1, 16)
    saliency[0, [4, 1]] = torch.tensor([0.5, 0.9])
    tokens = VisualTokens(torch.ones(1, 16, 4), (4, 4), saliency, torch.ones(1, 16, 4))
    kept = dycoke.build("prumerge_plus", keep=9 / 16).compress(tokens)
    # Of the 14 others 0, 2, 3, 5, ... every 14 / 6: places 0, 2, 4, 7, 9, 11; the extra token takes the first one free.
    assert kept.index.tolist() == [1, 4, 0, 3, 6, 9, 11, 13, 2]


def test_no_extra_token_without_a_kept_one_beside_it():
    tokens = video(2, (3, 3))
    kept = dycoke.build("prumerge", keep=0.01).compress(tokens)
    assert kept.index.tolist() == [tokens.saliency[0].argmax(), 9 + tokens.saliency[1].argmax()]
    weights = torch.where(torch.arange(9) == kept.index[0], 1.0, tokens.saliency[0])
    torch.testing.assert_close(kept.embeds[0], weights @ tokens.embeds[0])


@pytest.mark.parametrize("options", [{"order": "raster"}, {"positions": "original"}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_raster_order_is_the_same_tokens_sorted(name, options):
    tokens = video(3, (4, 5))
    published = dycoke.build(name).compress(tokens)
    method = dycoke.build(name, **options)
    kept = method.compress(tokens)
    order = published.index.argsort()
    assert method.raster and not dycoke.build(name).raster
    assert (published.index.diff() < 0).any()
    assert torch.equal(kept.index, published.index[order]) and torch.equal(kept.embeds, published.embeds[order])


@pytest.mark.parametrize(
    "options", [{"keep": 0.0}, {"keep": 1.5}, {"keep": "auto"}, {"positions": "kept"}, {"order": "score"}], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_option_out_of_range(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        dycoke.build(name, **options)


@pytest.mark.parametrize("keep", [None, True, [0.5]])
def test_keep_of_another_type(keep):
    with pytest.raises(TypeError, match="keep"):
        dycoke.build("prumerge", keep=keep)
