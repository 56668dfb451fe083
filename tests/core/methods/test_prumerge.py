"""PruMerge and PruMerge+ against a slow float64 reading of their description."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import dycoke
from dycoke.methods.prumerge import outlier_tokens, outliers, spacing_step
from dycoke.types import VisualTokens
from tests.cases import folded

NAMES = ["prumerge", "prumerge_plus"]


def adaptive_share(video: VisualTokens) -> float:
    flat = video.saliency.double().flatten().numpy()
    first, third = np.percentile(flat, 25), np.percentile(flat, 75)
    return len([s for s in flat if s > third + 1.5 * (third - first)]) / len(flat)


def described(name: str, video: VisualTokens, keep: float | str) -> tuple[list[int], list[Tensor]]:
    """Slots and tokens in the published order, frame by frame, one token at a time."""
    frames, size = video.saliency.shape
    each = 4 if name == "prumerge_plus" else 1
    if keep == "adaptive":
        left = min(size, max(1, int(size * adaptive_share(video))) * each + 1)
    else:
        left = min(size, max(1, round(keep * size)))
    if left == size:
        return list(range(frames * size)), list(video.embeds.double().flatten(0, 1))

    slots, tokens = [], []
    for t in range(frames):
        by_score = ranked(video, t)
        count = max(1, left - 1)
        chosen = by_score[: math.ceil(count / each)]
        rest = [n for n in range(size) if n not in chosen]
        spaced = count - len(chosen)
        chosen = chosen + [rest[i * len(rest) // spaced] for i in range(spaced)]
        one_frame(video, t, chosen, left > 1, slots, tokens)
    return slots, tokens


def described_published(video: VisualTokens) -> tuple[list[int], list[Tensor]]:
    """PruMerge+ with the release's spacing; as `described`."""
    (frames, size), share = video.saliency.shape, adaptive_share(video)
    step = max(1, int(int(1 / (share or 1 / size)) / 3))
    slots, tokens = [], []
    for t in range(frames):
        chosen = ranked(video, t)[: max(1, int(size * share))]
        chosen = chosen + [n for n in range(0, size - 1, step) if n not in chosen]
        if len(chosen) < size - 1:
            one_frame(video, t, chosen, True, slots, tokens)
        else:  # nothing is lost: a whole frame as it is
            whole = chosen + [n for n in range(size) if n not in chosen]
            slots += [t * size + n for n in whole]
            tokens += [video.embeds[t, n].double() for n in whole]
    if len(slots) == frames * size:
        order = np.argsort(slots)
        slots, tokens = [slots[i] for i in order], [tokens[i] for i in order]
    return slots, tokens


def ranked(video: VisualTokens, t: int) -> list[int]:
    score = video.saliency[t].double().tolist()
    return sorted(range(len(score)), key=lambda n: (-score[n], n))


def one_frame(video: VisualTokens, t: int, chosen: list[int], extra: bool, slots: list, tokens: list) -> None:
    """Append what the chosen tokens of a frame become, and the extra one."""
    x, score, keys = video.embeds[t].double(), video.saliency[t].double().tolist(), video.keys[t].double()
    size = len(score)
    for n in chosen:
        others = sorted((m for m in range(size) if m != n), key=lambda m: (-cosine(keys[n], keys[m]), m))
        tokens.append(x[n] + sum(score[m] * x[m] for m in others[:32]))
    slots += [t * size + n for n in chosen]
    if extra:
        unchosen = [n for n in ranked(video, t) if n not in chosen]
        tokens.append(sum(score[n] * x[n] for n in unchosen))
        slots.append(t * size + unchosen[0])


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / max(math.sqrt(float(a @ a) * float(b @ b)), 1e-12)


def video(frames: int, grid: tuple[int, int], seed: int = 0, dtype=torch.float32, spread: float = 1.5) -> VisualTokens:
    """Random tokens with a heavy tail of saliency, on few levels so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    size = (frames, grid[0] * grid[1])
    embeds, keys = (torch.randn(*size, dim, generator=generator) for dim in (12, 6))
    saliency = (torch.randn(size, generator=generator).mul(spread).exp() * 2).ceil() / 64
    return VisualTokens(embeds.to(dtype), grid, saliency, keys.to(dtype))


@folded("frames,grid", [(1, (2, 2)), (3, (4, 5)), (3, (7, 7))])
@folded("keep", ["adaptive", 0.01, 0.1, 0.25, 0.55, 0.9])
@folded("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_description(name, frames, grid, keep, dtype):
    for seed in range(2):
        tokens = video(frames, grid, seed, dtype)
        kept = dycoke.build(name, keep=keep).compress(tokens)
        slots, want = described(name, tokens, keep)
        assert kept.index.tolist() == slots
        rtol = 1e-5 if dtype == torch.float32 else 1e-2  # the last bit of bf16 may round the other way
        torch.testing.assert_close(kept.embeds, torch.stack(want).to(dtype), atol=1e-4, rtol=rtol)


@pytest.mark.parametrize("spread", [0.3, 0.8, 1.5, 3.0])
@pytest.mark.parametrize("frames,grid", [(1, (1, 1)), (1, (2, 2)), (3, (4, 5)), (3, (7, 7))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_published_spacing_equals_the_description(frames, grid, spread, dtype):
    tokens = video(frames, grid, dtype=dtype, spread=spread)
    kept = dycoke.build("prumerge_plus", spacing="published").compress(tokens)
    slots, want = described_published(tokens)
    assert kept.index.tolist() == slots
    rtol = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(kept.embeds, torch.stack(want).to(dtype), atol=1e-4, rtol=rtol)


def test_published_spacing_keeps_what_the_tables_of_others_call_55_percent():
    """A share of 12.3 % of 576 stands out: 71 salient, and 288 at every second slot less the salient ones."""
    method = dycoke.build("prumerge_plus", spacing="published")
    saliency = torch.linspace(1, 1.001, 576).repeat(2, 1)
    saliency[0, :142:2] = 2.0  # on spaced slots
    saliency[1, 1:143:2] = 2.0  # beside them
    tokens = VisualTokens(torch.ones(2, 576, 2), (24, 24), saliency, torch.ones(2, 576, 2))
    kept = method.compress(tokens)
    assert (kept.index // 576).bincount().tolist() == [288 + 1, 71 + 288 + 1]
    assert method.count(2, 576) is None and method.bound(2, 576) == 2 * 576
    assert spacing_step(80, 1, 576) == 2 and spacing_step(64, 1, 576) == 3
    assert [spacing_step(none, 3, 9) for none in (0, 3)] == [3, 3] and spacing_step(27, 3, 9) == 1


def test_a_frame_of_which_nothing_is_lost_is_not_merged():
    """An outlier in five and a spacing of one slot: but the last all are spaced, and it comes as the extra token."""
    saliency = torch.linspace(1, 1.001, 20).repeat(2, 1)
    saliency[0, 16:] = saliency[1, 3:7] = 2.0
    embeds = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0))
    tokens = VisualTokens(embeds, (4, 5), saliency, torch.ones(2, 20, 3))
    kept = dycoke.build("prumerge_plus", spacing="published").compress(tokens)
    assert kept.index.tolist() == list(range(40)) and torch.equal(kept.embeds, embeds.flatten(0, 1))


def test_published_spacing_is_that_of_outliers():
    with pytest.raises(ValueError, match=r"spacing='published' with keep=0\.5: expected keep='adaptive'"):
        dycoke.build("prumerge_plus", spacing="published", keep=0.5)
    with pytest.raises(ValueError, match=r"spacing='wide': expected one of even, published"):
        dycoke.build("prumerge_plus", spacing="wide")
    with pytest.raises(TypeError, match="unknown option 'spacing'"):
        dycoke.build("prumerge", spacing="published")


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
@pytest.mark.parametrize("name,more", [*((name, {}) for name in NAMES), ("prumerge_plus", {"spacing": "published"})])
def test_raster_order_is_the_same_tokens_sorted(name, more, options):
    tokens = video(3, (4, 5))
    published = dycoke.build(name, **more).compress(tokens)
    method = dycoke.build(name, **more, **options)
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


@pytest.mark.parametrize(
    "outliers,frames,per_frame,kept",
    [(0, 4, 9, 1), (40, 2, 100, 20), (39, 2, 100, 19), (200, 2, 100, 25), (3, 1, 3, 1), (928, 32, 169, 28)],
)
def test_outlier_tokens(outliers, frames, per_frame, kept):
    assert outlier_tokens(outliers, frames, per_frame) == kept
