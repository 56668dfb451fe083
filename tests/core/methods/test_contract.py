"""What every registered stage-1 method owes its callers. A new method is picked up by being registered."""

import dataclasses

import pytest
import torch

import dycoke
from dycoke.registry import entry
from dycoke.types import VisualTokens
from tests.cases import folded

FRAMES = [1, 2, 3, 5, 8, 32, 48]
GRIDS = [(1, 1), (3, 3), (4, 5)]
DIM = 24
KEY_DIM = 8
# Options under which a method does what its release does.
AS_RELEASED = {"variant": "official", "trees": "published", "spacing": "published", "release": "llava_video"}


def stage_one() -> list[str]:
    """The methods registered by now that have a stage before the language model."""
    return [name for name in dycoke.available() if "before" in entry(name).stages]


def compressors() -> dict:
    """Each of them at its defaults, with its tokens' own positions and as released, where it has such options."""
    found = {}
    for name in stage_one():
        found[name] = dycoke.build(name).plan().before
        if "positions" in entry(name).options:
            found[f"{name}-original"] = dycoke.build(name, positions="original").plan().before
        for option, value in AS_RELEASED.items():
            if option in entry(name).options:
                found[f"{name}-{value}"] = dycoke.build(name, **{option: value}).plan().before
    return found


STAGE_ONE = stage_one()
METHODS = compressors()


def video(frames, grid, dtype=torch.float32, constant=False):
    generator = torch.Generator().manual_seed(frames * 100 + grid[0])
    size = (frames, grid[0] * grid[1])
    embeds, keys = (torch.randn(*size, dim, generator=generator) for dim in (DIM, KEY_DIM))
    saliency = torch.randn(size, generator=generator).softmax(1)
    if constant:
        embeds, keys, saliency = (torch.ones_like(each) for each in (embeds, keys, saliency))
    return VisualTokens(embeds.to(dtype), grid, saliency, keys.to(dtype))


@folded("frames", FRAMES)
@folded("grid", GRIDS)
@folded("dtype", [torch.float32, torch.bfloat16])
@folded("constant", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_compress(name, frames, grid, dtype, constant):
    before, tokens = METHODS[name], video(frames, grid, dtype, constant)
    untouched = {name: getattr(tokens, name).clone() for name in ("embeds", "saliency", "keys")}
    rng = torch.get_rng_state()
    if frames < before.min_frames:
        with pytest.raises(ValueError, match=rf"{before.min_frames} frames"):
            before.compress(tokens)
        return
    kept, again = before.compress(tokens), before.compress(tokens)

    count = before.count(frames, grid[0] * grid[1])
    assert kept.embeds.shape == (len(kept.index), DIM) and kept.index.dtype == torch.int64
    if count is None:
        assert 1 <= len(kept.index) <= before.bound(frames, grid[0] * grid[1]) <= frames * grid[0] * grid[1]
    else:
        assert len(kept.index) == count
    assert kept.index.min() >= 0 and kept.index.max() < frames * grid[0] * grid[1]
    assert len(kept.index.unique()) == len(kept.index)
    if before.raster:
        assert (kept.index.diff() > 0).all()
    assert before.raster or before.positions == "packed"
    assert kept.embeds.dtype == dtype and kept.embeds.device == tokens.embeds.device
    assert not kept.embeds.isnan().any()
    assert torch.equal(kept.embeds, again.embeds) and torch.equal(kept.index, again.index)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(getattr(tokens, name), value) for name, value in untouched.items())


def everything(name: str):
    """The method with the options that keep all, None where it has no such option."""
    options = entry(name).options
    if "keep" in options:
        return dycoke.build(name, keep=1.0)
    return dycoke.build(name, k=0.0) if "k" in options else dycoke.build(name)


@folded("frames", FRAMES)
@pytest.mark.parametrize("name", STAGE_ONE)
def test_keeping_everything_is_the_input_in_raster_order(name, frames):
    tokens = video(frames, (3, 3))
    kept = everything(name).plan().before.compress(tokens)
    assert kept.index.tolist() == list(range(frames * 9))
    assert torch.equal(kept.embeds, tokens.embeds.flatten(0, 1))


@pytest.mark.parametrize("name", [n for n in STAGE_ONE if "keep" in entry(n).options])
def test_budget_follows_keep(name):
    stages = [dycoke.build(name, keep=keep).plan().before for keep in (0.1, 0.25, 0.5, 1.0)]
    counts = [before.count(8, 100) for before in stages]
    if None in counts:  # the content decides, but more keep never allows less
        counts = [before.bound(8, 100) for before in stages]
    assert counts == sorted(set(counts)) and counts[-1] == 800


@pytest.mark.parametrize("name", dycoke.available())
def test_method_is_frozen_and_documented(name):
    method, row = dycoke.build(name), entry(name)
    assert row.summary and row.source
    assert all(meaning for _, meaning in row.options.values())
    for option in row.options:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, option, 0)


def test_random_drop_depends_on_its_seed_alone():
    tokens = video(8, (3, 3))
    first, same, other = (dycoke.build("random_drop", seed=s).compress(tokens).index for s in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize("keep,frames", [(0.5, [0, 2, 4, 6]), (0.25, [0, 4]), (0.01, [0]), (0.75, [0, 1, 2, 4, 5, 6])])
def test_uniform_frames_are_whole_and_even(keep, frames):
    index = dycoke.build("uniform_frames", keep=keep).compress(video(8, (3, 3))).index
    assert index.tolist() == [t * 9 + n for t in frames for n in range(9)]
